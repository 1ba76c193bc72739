//! Container engines for one run, with nothing but a folder of their own.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

/// How long one may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running engine. Dropped, it has ended.
pub(super) struct Daemon {
    tier: &'static str,
    process: Child,
    folder: TempDir,
}

impl Daemon {
    /// Starts the engine of a tier; says what is missing for it.
    pub(super) fn start(tier: &'static str) -> Result<Result<Self, String>> {
        let program = if tier == "docker" {
            "dockerd"
        } else {
            "podman"
        };
        if !geteuid().is_root() {
            return Ok(Err(format!("only root can start a {program} of its own")));
        }
        if !is_installed(program) {
            return Ok(Err(format!("there is no {program}")));
        }
        let folder = tempfile::tempdir()?;
        let log = File::create(folder.path().join("log"))?;
        let mut command = Command::new(program);
        match tier {
            "docker" => dockerd(&mut command, folder.path()),
            _ => podman(&mut command, folder.path()),
        };
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let mut daemon = Self {
            tier,
            process,
            folder,
        };
        daemon.wait_until_it_listens()?;
        Ok(Ok(daemon))
    }

    /// The variable that names it.
    pub(super) fn variable(&self) -> &'static str {
        match self.tier {
            "docker" => "DOCKER_HOST",
            _ => "CONTAINER_HOST",
        }
    }

    /// Its address.
    pub(super) fn address(&self) -> String {
        format!("unix://{}", socket(self.folder.path()).display())
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while UnixStream::connect(socket(self.folder.path())).is_err() {
            let ended = self.process.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                let log = std::fs::read_to_string(self.folder.path().join("log"))?;
                bail!("the engine of tier {} does not come up: {log}", self.tier);
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let id = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        let _ = id.map(|id| kill_process(id, Signal::TERM));
        let _ = self.process.wait();
        unmount_below(self.folder.path());
    }
}

/// Takes away what an engine that has ended has left mounted below its folder: Podman does.
fn unmount_below(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The fifth field is the place (proc_pid_mountinfo(5)); the newest are the last.
    let places = mounts
        .lines()
        .rev()
        .filter_map(|line| line.split(' ').nth(4));
    for place in places.filter(|place| Path::new(place).starts_with(folder)) {
        // What cannot be unmounted stays, and is seen.
        let _ = Command::new("umount").args(["--lazy", place]).status();
    }
}

fn dockerd(command: &mut Command, folder: &Path) {
    command
        .arg("--data-root")
        .arg(folder.join("data"))
        .arg("--exec-root")
        .arg(folder.join("exec"))
        .arg("--pidfile")
        .arg(folder.join("pid"))
        .arg("--host")
        .arg(format!("unix://{}", socket(folder).display()))
        .args(["--iptables=false", "--bridge=none"]);
}

fn podman(command: &mut Command, folder: &Path) {
    for (flag, name) in [
        ("--root", "data"),
        ("--runroot", "run"),
        ("--tmpdir", "tmp"),
    ] {
        command.arg(flag).arg(folder.join(name));
    }
    if is_installed("runc") {
        // The other one, crun, does not take every layout of cgroups.
        command.args(["--runtime", "runc"]);
    }
    command
        .args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"])
        .args(["system", "service", "--time", "0"])
        .arg(format!("unix://{}", socket(folder).display()));
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("engine.sock")
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
