//! Firecracker with the kernel, the initramfs and the root of an image of ours.
//!
//! Its guest's agent connects to the host as it does with our VMM, and the answer it gets is the
//! work: so both VMMs boot the same guest to the same point.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use agent_client::{Session, SessionOptions};
use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use sandbox_image::Image;
use serde_json::json;
use tempfile::TempDir;

use crate::stopwatch;
use crate::watchdog::Watchdog;

/// The port at which the agent looks for its host.
const AGENT_PORT: u32 = 1024;

/// How long Firecracker's guest may take to answer.
const DEADLINE: Duration = Duration::from_secs(8);

/// Starts Firecracker, has the guest switched off as soon as it is up, and returns how long that
/// took from the start of the process to its end.
///
/// # Errors
///
/// If it does not start, or its guest does not come up or end.
pub(crate) fn boot_and_power_off(program: &Path, image: &Image) -> Result<Duration> {
    let Prepared {
        place,
        listener,
        mut command,
    } = prepare(program, image, 128)?;
    let host = thread::Builder::new()
        .name("guest-host".to_owned())
        .spawn(move || switch_off(&listener))
        .context("cannot start a thread")?;
    let result = (|| {
        let (took, status) = stopwatch::time(&mut command)?;
        ensure!(status.success(), "Firecracker ended with {status}");
        Ok(took)
    })();
    if result.is_ok() {
        host.join()
            .map_err(|_| anyhow!("the host's thread panicked"))??;
    }
    result.with_context(|| place.said())
}

/// A guest in Firecracker that stays up. Dropped, it is gone.
pub(crate) struct Guest {
    place: Place,
    process: Child,
}

impl Guest {
    /// Boots a guest and waits for its agent.
    ///
    /// # Errors
    ///
    /// If it does not come up.
    pub(crate) fn boot(program: &Path, image: &Image, memory_mib: u32) -> Result<Self> {
        let Prepared {
            place,
            listener,
            mut command,
        } = prepare(program, image, memory_mib)?;
        let process = command.spawn().context("cannot start Firecracker")?;
        let guest = Self { place, process };
        accept(&listener)
            .and_then(|stream| Ok(Session::new(stream, options()).ping()?))
            .with_context(|| guest.place.said())?;
        Ok(guest)
    }

    /// Does some work with the guest, which ends with it if it takes too long.
    ///
    /// # Errors
    ///
    /// The work's, or that it took too long.
    pub(crate) fn within<T>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let watchdog = Watchdog::over(&self.process, patience)?;
        let done = work();
        if watchdog.call_off()? {
            let said = self.place.said();
            bail!("Firecracker or its guest stood still for {patience:?}. {said}");
        }
        done
    }

    /// A session with the guest's agent, by Firecracker's own interface for connections from the host.
    ///
    /// # Errors
    ///
    /// If there is no connection.
    pub(crate) fn session(&self) -> Result<Session> {
        let mut stream = UnixStream::connect(self.place.socket()).context("no vsock")?;
        // In one write: Firecracker takes a line that comes in pieces for a broken one.
        stream.write_all(format!("CONNECT {AGENT_PORT}\n").as_bytes())?;
        let mut answer = Vec::new();
        while answer.last() != Some(&b'\n') {
            let mut byte = [0];
            stream
                .read_exact(&mut byte)
                .context("Firecracker does not connect us")?;
            answer.extend_from_slice(&byte);
        }
        ensure!(answer.starts_with(b"OK "), "not connected: {answer:?}");
        Ok(Session::new(stream, options()))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// All that Firecracker needs to start.
struct Prepared {
    place: Place,
    listener: UnixListener,
    command: Command,
}

/// Where its files are.
struct Place(TempDir);

impl Place {
    fn socket(&self) -> PathBuf {
        self.0.path().join("vsock")
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("log")
    }

    fn said(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        format!("Firecracker said: {}", log.trim())
    }
}

fn prepare(program: &Path, image: &Image, memory_mib: u32) -> Result<Prepared> {
    let place = Place(tempfile::tempdir().context("cannot make a folder")?);
    let socket = place.socket();
    let listener = UnixListener::bind(format!("{}_{AGENT_PORT}", socket.display()))
        .context("cannot listen for Firecracker's guest")?;
    let config = place.0.path().join("machine.json");
    let machine = machine(image, &socket, memory_mib);
    fs::write(&config, machine.to_string()).context("cannot write a file")?;
    let log = fs::File::create(place.log()).context("cannot write a file")?;
    let errors = log.try_clone().context("cannot write a file")?;
    let mut command = Command::new(program);
    command
        .args(["--no-api", "--config-file"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    Ok(Prepared {
        place,
        listener,
        command,
    })
}

fn machine(image: &Image, socket: &Path, memory_mib: u32) -> serde_json::Value {
    let parameters = format!(
        "-- sovereign.root=/dev/vda sovereign.rootfstype=erofs sovereign.overlay_mib={}",
        memory_mib / 2
    );
    json!({
        "boot-source": {
            "kernel_image_path": image.kernel,
            "initrd_path": image.initramfs,
            "boot_args": format!("{} {parameters}", image.cmdline),
        },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": memory_mib },
        "drives": [{
            "drive_id": "root",
            "path_on_host": image.rootfs,
            "is_root_device": false,
            "is_read_only": true,
        }],
        "vsock": { "guest_cid": 3, "uds_path": socket },
        "entropy": {},
    })
}

/// Waits for the guest's agent.
fn accept(listener: &UnixListener) -> Result<UnixStream> {
    let patience = Timespec::try_from(DEADLINE)?;
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let ready = retry_on_intr(|| poll(&mut fds, Some(&patience)))?;
    ensure!(ready > 0, "the guest did not connect within {DEADLINE:?}");
    let (stream, _) = listener.accept().context("the guest did not connect")?;
    Ok(stream)
}

/// Waits for the guest's agent and tells it to switch the guest off.
fn switch_off(listener: &UnixListener) -> Result<()> {
    let stream = accept(listener)?;
    Session::new(stream, options())
        .power_off()
        .context("the guest's agent did not obey")
}

fn options() -> SessionOptions {
    SessionOptions {
        answer_timeout: DEADLINE,
        ..SessionOptions::default()
    }
}
