//! The lab's disk: an ext4 image filled without root and without mounts.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::job::{Job, Mode};
use crate::parts::Parts;
use crate::tools::{DEBUGFS, MKFS, output_of};

/// Folders that every Linux host has.
const FOLDERS: &[&str] = &[
    "bin",
    "dev",
    "etc",
    "lab/modules",
    "opt",
    "out",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n";
const GROUP: &str = "root:x:0:\nkvm:x:106:\nuser:x:1000:\n";

/// Makes the disk of a lab in `work`, to run `job` or, without one, a shell.
pub(crate) fn make(work: &Path, parts: &Parts, job: &Job) -> Result<PathBuf> {
    let root = work.join("root");
    for folder in FOLDERS {
        fs::create_dir_all(root.join(folder)).context("cannot make the lab's root")?;
    }
    install_busybox(parts, &root)?;
    for module in parts.host_modules() {
        let name = module.file_name().context("a module without a name")?;
        place(&module, &root.join("lab/modules").join(name))?;
    }
    executable(&root.join("sbin/init"), include_bytes!("init.sh"))?;
    if !job.argv.is_empty() {
        executable(&root.join("lab/job"), &job.script())?;
        if job.mode == Mode::Functional {
            fs::write(root.join("lab/pulse"), "").context("cannot write /lab/pulse")?;
        }
    }
    fs::write(root.join("etc/passwd"), PASSWD).context("cannot write /etc/passwd")?;
    fs::write(root.join("etc/group"), GROUP).context("cannot write /etc/group")?;
    for (from, to) in &job.files {
        let target = root.join(to.trim_start_matches('/'));
        place(from, &target).with_context(|| format!("cannot bring in {}", from.display()))?;
    }
    let disk = work.join("disk.img");
    format(&root, &disk, job.disk_mib)?;
    fs::remove_dir_all(&root).context("cannot remove the lab's staged root")?;
    Ok(disk)
}

/// Copies what a finished job left in `/out` to `target`.
pub(crate) fn take_out(disk: &Path, target: &Path) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
    // debugfs splits its request at spaces outside double quotes.
    let text = target
        .to_str()
        .with_context(|| format!("{} is not UTF-8", target.display()))?;
    ensure!(!text.contains('"'), "{text} has a double quote in it");
    let list = output_of(DEBUGFS.command()?.args(["-R", "ls -p /out"]).arg(disk))?;
    for name in String::from_utf8_lossy(&list)
        .lines()
        .filter_map(|line| line.split('/').nth(5))
    {
        if name != "." && name != ".." {
            let request = format!("rdump \"/out/{name}\" \"{text}\"");
            output_of(DEBUGFS.command()?.args(["-R", &request]).arg(disk))?;
        }
    }
    Ok(())
}

/// Puts busybox and a link for each of its commands into `/bin`.
fn install_busybox(parts: &Parts, root: &Path) -> Result<()> {
    place(&parts.busybox(), &root.join("bin/busybox"))?;
    let list = output_of(Command::new(parts.busybox()).arg("--list"))?;
    for applet in String::from_utf8_lossy(&list)
        .lines()
        .filter(|name| *name != "busybox")
    {
        symlink("busybox", root.join("bin").join(applet)).context("cannot link busybox")?;
    }
    Ok(())
}

fn executable(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context("cannot set a mode")
}

/// Places a file or folder: by a hard link where that works, by a copy elsewhere.
fn place(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).context("cannot make a folder")?;
    }
    if from.is_dir() {
        fs::create_dir_all(to).context("cannot make a folder")?;
        for entry in fs::read_dir(from).context("cannot list a folder")? {
            let entry = entry.context("cannot list a folder")?;
            place(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    let real = fs::canonicalize(from).with_context(|| format!("cannot find {}", from.display()))?;
    match fs::hard_link(&real, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("{} is there twice", to.display()))
        }
        Err(_) => {
            fs::copy(&real, to).with_context(|| format!("cannot copy {}", real.display()))?;
            Ok(())
        }
    }
}

fn format(root: &Path, disk: &Path, disk_mib: u32) -> Result<()> {
    let free = u64::from(disk_mib) << 20;
    let size = (size_of(root)? + free).next_multiple_of(1 << 20);
    let file = fs::File::create(disk).context("cannot make the lab's disk")?;
    file.set_len(size).context("cannot size the lab's disk")?;
    output_of(
        MKFS.command()?
            .args([
                "-q",
                "-F",
                "-m",
                "0",
                "-b",
                "4096",
                "-O",
                "^has_journal,^resize_inode",
            ])
            .args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", "-d"])
            .arg(root)
            .arg(disk),
    )?;
    ensure!(
        fs::metadata(disk).is_ok_and(|made| made.len() == size),
        "the disk changed its size"
    );
    Ok(())
}

fn size_of(dir: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(dir).context("cannot list a folder")? {
        let entry = entry.context("cannot list a folder")?;
        let metadata = entry.metadata().context("cannot size a file")?;
        size += if metadata.is_dir() {
            size_of(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_brings_folders_and_follows_links() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("deep")).unwrap();
        fs::write(from.join("deep/file"), "content").unwrap();
        symlink("deep/file", from.join("link")).unwrap();
        let to = dir.path().join("to/here");
        place(&from, &to).unwrap();
        assert_eq!(fs::read(to.join("deep/file")).unwrap(), b"content");
        assert!(fs::symlink_metadata(to.join("link")).unwrap().is_file());
    }

    #[test]
    fn place_names_a_missing_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = place(&dir.path().join("absent"), &dir.path().join("to")).unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    }
}
