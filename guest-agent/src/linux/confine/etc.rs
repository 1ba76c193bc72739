//! `/etc`: what programs need of the host's, and of our own what would tell of the host.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;

use super::root::bind;

/// Files and folders of the host's that programs look for. None of them is about this machine's users,
/// network or secrets.
const OF_THE_HOST: [&str; 34] = [
    "alternatives",
    "bash.bashrc",
    "ca-certificates/extracted",
    "crypto-policies",
    "debian_version",
    "fonts",
    "gai.conf",
    "gitattributes",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "locale.alias",
    "locale.conf",
    "login.defs",
    "lsb-release",
    "magic",
    "mime.types",
    "os-release",
    "perl",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "protocols",
    "R",
    "redhat-release",
    "rpc",
    "services",
    "shells",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
];
/// How the names of others begin.
const FAMILIES: [&str; 2] = ["java-", "python"];

const PASSWD: &str = "\
root:x:0:0:root:/:/bin/sh
sandbox:x:1000:1000:sandbox:/home/sandbox:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
";
const GROUP: &str = "\
root:x:0:
tty:x:5:
sandbox:x:1000:
nogroup:x:65534:
";
const NSSWITCH: &str = "\
passwd: files
group: files
hosts: files dns
services: files
protocols: files
";

/// Fills the folder `etc` in the new root.
pub(super) fn fill(etc: &str, hostname: &str) -> Result<(), (String, io::Error)> {
    let hosts = format!("127.0.0.1 localhost {hostname}\n::1 localhost {hostname}\n");
    let own = [
        ("passwd", PASSWD),
        ("group", GROUP),
        ("nsswitch.conf", NSSWITCH),
        ("hosts", &hosts),
        ("hostname", &format!("{hostname}\n")),
        ("resolv.conf", ""),
    ];
    for (name, text) in own {
        let path = format!("{etc}/{name}");
        fs::write(&path, text).map_err(|error| (path, error))?;
    }
    for name in OF_THE_HOST {
        take(etc, name)?;
    }
    // Without a list there are no such files either.
    for entry in fs::read_dir("/etc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        if let Some(name) = name.to_str()
            && FAMILIES.iter().any(|family| name.starts_with(family))
        {
            take(etc, name)?;
        }
    }
    Ok(())
}

/// Takes over a file, folder or link, if the host has it and the agent may look at it.
fn take(etc: &str, name: &str) -> Result<(), (String, io::Error)> {
    let source = format!("/etc/{name}");
    let target = format!("{etc}/{name}");
    let Ok(metadata) = fs::symlink_metadata(&source) else {
        return Ok(());
    };
    let failed = |error| (source.clone(), error);
    if let Some((folder, _)) = name.rsplit_once('/') {
        fs::create_dir_all(format!("{etc}/{folder}")).map_err(failed)?;
    }
    if metadata.is_symlink() {
        let link = fs::read_link(&source).map_err(failed)?;
        symlink(link, &target).map_err(failed)
    } else if metadata.is_dir() {
        fs::create_dir(&target).map_err(failed)?;
        bind(&source, &target).map_err(failed)
    } else if metadata.is_file() {
        fs::write(&target, "").map_err(failed)?;
        bind(&source, &target).map_err(failed)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_on_the_list() {
        let secret = [
            "shadow",
            "gshadow",
            "ssh",
            "ssl/private",
            "sudoers",
            "passwd",
            "group",
        ];
        for name in OF_THE_HOST {
            let is_secret = secret
                .iter()
                .any(|secret| name == *secret || secret.starts_with(&format!("{name}/")));
            assert!(!is_secret, "{name}");
        }
    }
}
