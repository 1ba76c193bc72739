//! A machine with a container engine, a store with an image, and a user's home.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use sandbox_image::digest::Digest;
use sandbox_image::manifest::{
    Blob, Discovery, Initramfs, Kernel, Manifest, Rootfs, SCHEMA, timestamp,
};
use sovereign_engines::Engine;
use tempfile::TempDir;

use crate::daemon::Daemon;

/// What the image has, copied from the machine that the test runs on.
const PROGRAMS: [&str; 12] = [
    "sh", "cat", "sleep", "id", "touch", "ls", "head", "tail", "true", "env", "wc", "pwd",
];

/// What is missing for a test with containers of this engine.
pub(crate) fn missing(engine: Engine) -> Option<String> {
    let no_agent = "there is no sovereign-agent; build it, or set SOVEREIGN_AGENT";
    let obstacle = engine.obstacle();
    obstacle.or_else(|| agent().is_none().then(|| no_agent.to_owned()))
}

/// The agent's program: the one that is named, else the newest static one of the same target folder.
fn agent() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SOVEREIGN_AGENT") {
        return Some(named.into());
    }
    let target = Path::new(env!("CARGO_BIN_EXE_sovereign"))
        .parent()?
        .parent()?;
    ["release", "tool", "debug"]
        .map(|profile| {
            let folder = target.join("x86_64-unknown-linux-musl").join(profile);
            folder.join("sovereign-agent")
        })
        .into_iter()
        .filter(|path| path.is_file())
        .max_by_key(|path| path.metadata().and_then(|agent| agent.modified()).ok())
}

/// The machine.
pub(crate) struct Machine {
    pub(crate) daemon: Daemon,
    pub(crate) folder: TempDir,
}

impl Machine {
    pub(crate) fn new(engine: Engine) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["home", "runtime", "data/images", "cache/rootfs/built"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        make_image(folder.path());
        let daemon = Daemon::start(engine, &folder.path().join("engine"));
        Self { daemon, folder }
    }

    /// `sovereign` on this machine.
    pub(crate) fn sovereign(&self, arguments: &[&str]) -> Command {
        let path = self.folder.path();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sovereign"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", path.join("home"))
            .env("XDG_RUNTIME_DIR", path.join("runtime"))
            .env("SOVEREIGN_DATA_DIR", path.join("data"))
            .env("SOVEREIGN_CACHE_DIR", path.join("cache"))
            .env("SOVEREIGN_AGENT", agent().unwrap())
            .env(self.daemon.engine().variable(), self.daemon.address())
            .stdin(Stdio::null());
        command
    }

    /// The name of this machine's tier.
    pub(crate) fn tier(&self) -> &'static str {
        self.daemon.engine().name()
    }

    /// `sovereign run` in this machine's tier, with these flags, `--`, and a command.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.sovereign(&[&["-q", "run", "--tier", self.tier()], arguments].concat())
    }

    /// The same, run to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// A line of shell in a sandbox with these flags.
    pub(crate) fn shell(&self, flags: &[&str], line: &str) -> Output {
        self.run(&[flags, &["--", "sh", "-c", line]].concat())
    }

    /// Whether all containers and private folders have gone, within two seconds.
    pub(crate) fn is_clean_soon(&self) -> bool {
        let runtime = self.folder.path().join("runtime");
        (0..40).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            let folders = fs::read_dir(&runtime).unwrap().count();
            folders == 0 && self.daemon.containers().is_empty()
        })
    }
}

impl Machine {
    /// An archive with the machine's own programs, and no file that tells of users.
    pub(crate) fn archive_without_user(&self) -> Vec<u8> {
        let packed = Command::new("tar")
            .args(["-cf", "-", "--exclude=./etc", "--exclude=./home", "-C"])
            .arg(self.folder.path().join("tree"))
            .arg(".")
            .output()
            .unwrap();
        assert!(packed.status.success());
        packed.stdout
    }
}

/// Puts an image into the store and the cache, as a build does, of the machine's own programs.
fn make_image(folder: &Path) {
    let tree = folder.join("tree");
    for name in [
        "bin",
        "etc",
        "home/sandbox",
        "tmp",
        "var/tmp",
        "run",
        "proc",
        "sys",
        "dev",
    ] {
        fs::create_dir_all(tree.join(name)).unwrap();
    }
    for shared in ["tmp", "var/tmp"] {
        // Engines give what they mount there the mode of what was there.
        fs::set_permissions(tree.join(shared), Permissions::from_mode(0o1777)).unwrap();
    }
    symlink("bin", tree.join("sbin")).unwrap();
    let users = "root:x:0:0::/root:/bin/sh\nsandbox:x:1000:1000::/home/sandbox:/bin/sh\n";
    fs::write(tree.join("etc/passwd"), users).unwrap();
    for program in PROGRAMS {
        let path = Path::new("/bin").join(program);
        fs::copy(&path, tree.join("bin").join(program)).unwrap();
        copy_libraries(&path, &tree);
    }
    copy_libraries(&agent().unwrap(), &tree);
    let entry = folder.join("cache/rootfs/built");
    let archive = entry.join("rootfs.tar");
    let packed = Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(&tree)
        .arg(".")
        .status();
    assert!(packed.unwrap().success());
    let digest = Digest::of_file(&archive).unwrap();
    let manifest = manifest(digest);
    fs::write(folder.join("data/images/sandbox.json"), manifest.to_json()).unwrap();
    let facts = serde_json::json!({"image": digest, "contents": {
        "system": "test", "version": "1", "python": "", "packages": BTreeMap::<String, String>::new(),
        "user": {"name": "sandbox", "uid": 1000, "gid": 1000, "home": "/home/sandbox"}}});
    fs::write(entry.join("facts.json"), facts.to_string()).unwrap();
}

/// The libraries of a program, at their own places.
fn copy_libraries(program: &Path, tree: &Path) {
    let listed = Command::new("ldd").arg(program).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for library in listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let place = tree.join(library.trim_start_matches('/'));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(library, place).unwrap();
    }
}

fn manifest(rootfs: Digest) -> Manifest {
    let blob = |digest| Blob { digest, size: 1 };
    let none = Digest::of(b"");
    Manifest {
        schema: SCHEMA,
        created: timestamp(SystemTime::now()),
        kernel: Kernel {
            blob: blob(none),
            release: None,
            cmdline: String::new(),
            discovery: Discovery::Acpi,
        },
        initramfs: Initramfs {
            blob: blob(none),
            agent_release: "0".to_owned(),
            agent_protocol: None,
        },
        rootfs: Rootfs {
            blob: blob(rootfs),
            contents: None,
        },
    }
}
