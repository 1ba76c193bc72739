//! A running engine.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{self, Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::leftovers::{end_monitors, unmount_below};
use crate::{Engine, is_installed};

/// How long one may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often that is looked at.
const INTERVAL: Duration = Duration::from_millis(100);

/// What an engine is asked, and the start of a good answer (Docker Engine API, `GET /_ping`).
const PING: &[u8] = b"GET /_ping HTTP/1.0\r\nHost: localhost\r\n\r\n";
const PONG: &[u8; 13] = b"HTTP/1.0 200 ";

/// Where an engine listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// At a socket in its folder.
    Socket,
    /// There, and at a port of this machine, as one of another machine would.
    SocketAndPort,
}

/// An engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system's.
    #[error("cannot start the container engine")]
    Io(#[from] io::Error),
    /// It ended, or does not listen.
    #[error("the container engine does not come up; it says: {0}")]
    Silent(String),
}

/// An engine that stands still. Dropped, it goes on.
#[derive(Debug)]
pub struct StandStill<'a>(&'a [Child]);

impl StandStill<'_> {
    fn signal(&self, signal: Signal) -> io::Result<()> {
        for process in self.0 {
            kill_process(Pid::from_child(process), signal)?;
        }
        Ok(())
    }
}

impl Drop for StandStill<'_> {
    fn drop(&mut self) {
        // One that has ended needs no word.
        let _ = self.signal(Signal::CONT);
    }
}

/// A running engine. Dropped, it has ended, and nothing of it is mounted any more.
#[derive(Debug)]
pub struct Daemon {
    engine: Engine,
    processes: Vec<Child>,
    folder: PathBuf,
    port: Option<u16>,
}

impl Daemon {
    /// Starts one in a folder of its own, which is made. Its containers may have the network of this
    /// `bridge`, if there is one; Podman makes its own.
    ///
    /// # Errors
    ///
    /// If it does not come up within a minute.
    pub fn start(
        engine: Engine,
        folder: &Path,
        addresses: Addresses,
        bridge: Option<&str>,
    ) -> Result<Self, StartError> {
        let folder = &path::absolute(folder)?;
        fs::create_dir_all(folder)?;
        let port = match addresses {
            Addresses::Socket => None,
            Addresses::SocketAndPort => Some(free_port()?),
        };
        let mut daemon = Self {
            engine,
            processes: Vec::new(),
            folder: folder.to_owned(),
            port,
        };
        let hosts: Vec<_> = [Some(daemon.address()), daemon.remote_address()]
            .into_iter()
            .flatten()
            .collect();
        match engine {
            Engine::Docker => {
                let command = dockerd(folder, bridge, &hosts);
                daemon.processes.push(daemon.spawn(command)?);
            }
            Engine::Podman => {
                for host in &hosts {
                    daemon.processes.push(daemon.spawn(podman(folder, host))?);
                }
            }
        }
        daemon.wait_until_it_serves()?;
        Ok(daemon)
    }

    /// Which engine it is.
    #[must_use]
    pub const fn engine(&self) -> Engine {
        self.engine
    }

    /// Its address, as [`Engine::variable`] has it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Its address as if it were on another machine, if it has one.
    #[must_use]
    pub fn remote_address(&self) -> Option<String> {
        Some(format!("tcp://127.0.0.1:{}", self.port?))
    }

    /// Has it stand still, as one does that has too much to do.
    ///
    /// # Errors
    ///
    /// If it cannot be stopped.
    pub fn stand_still(&self) -> io::Result<StandStill<'_>> {
        let still = StandStill(&self.processes);
        still.signal(Signal::STOP)?;
        Ok(still)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("engine.sock")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn spawn(&self, mut command: Command) -> io::Result<Child> {
        let log = File::options().create(true).append(true).open(self.log())?;
        command
            // Podman's monitors leave an empty file `oom` where they were started.
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
    }

    fn serves(&self) -> bool {
        let by_port = |port| TcpStream::connect(("127.0.0.1", port)).is_ok_and(is_answered);
        UnixStream::connect(self.socket()).is_ok_and(is_answered) && self.port.is_none_or(by_port)
    }

    fn wait_until_it_serves(&mut self) -> Result<(), StartError> {
        let end = Instant::now() + PATIENCE;
        while !self.serves() {
            let mut ended = false;
            for process in &mut self.processes {
                ended |= process.try_wait()?.is_some();
            }
            if ended || Instant::now() > end {
                return Err(StartError::Silent(fs::read_to_string(self.log())?));
            }
            thread::sleep(INTERVAL);
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let id = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
            let _ = id.map(|id| kill_process(id, Signal::TERM));
            let _ = process.wait();
        }
        end_monitors(&self.folder);
        unmount_below(&self.folder);
    }
}

/// Whether an engine answers a ping here: it listens before it serves.
fn is_answered(mut stream: impl Read + Write) -> bool {
    let mut status = [0; PONG.len()];
    stream.write_all(PING).is_ok() && stream.read_exact(&mut status).is_ok() && status == *PONG
}

/// A port that nobody has: the kernel's choice.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn dockerd(folder: &Path, bridge: Option<&str>, hosts: &[String]) -> Command {
    let mut command = Command::new("dockerd");
    for (flag, name) in [
        ("--data-root", "data"),
        ("--exec-root", "exec"),
        ("--pidfile", "pid"),
    ] {
        command.arg(flag).arg(folder.join(name));
    }
    command
        .arg("--iptables=false")
        .arg(format!("--bridge={}", bridge.unwrap_or("none")));
    for host in hosts {
        command.args(["--host", host]);
    }
    command
}

fn podman(folder: &Path, host: &str) -> Command {
    let mut command = Command::new("podman");
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
        .args(["--cgroup-manager=cgroupfs", "--events-backend=none"])
        .args(["system", "service", "--time=0", host]);
    command
}
