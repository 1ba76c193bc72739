//! One run of Firecracker with the kernel, the initramfs and the root of an image of ours.
//!
//! Its guest's agent connects to the host as it does with our VMM, and the answer it gets is the
//! work: so both VMMs boot the same guest to the same point.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use agent_client::{Session, SessionOptions};
use anyhow::{Context, Result, anyhow, ensure};
use sandbox_image::Image;
use serde_json::json;

use crate::stopwatch;

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
    let dir = tempfile::tempdir().context("cannot make a folder")?;
    let socket = dir.path().join("vsock");
    let listener = UnixListener::bind(format!("{}_{AGENT_PORT}", socket.display()))
        .context("cannot listen for Firecracker's guest")?;
    let config = dir.path().join("machine.json");
    fs::write(&config, machine(image, &socket).to_string()).context("cannot write a file")?;
    let host = thread::Builder::new()
        .name("guest-host".to_owned())
        .spawn(move || switch_off(&listener))
        .context("cannot start a thread")?;
    let log = dir.path().join("log");
    let file = fs::File::create(&log).context("cannot write a file")?;
    let errors = file.try_clone().context("cannot write a file")?;
    let mut command = Command::new(program);
    command
        .args(["--no-api", "--config-file"])
        .arg(&config)
        .stdout(file)
        .stderr(errors);
    let result = (|| {
        let (took, status) = stopwatch::time(&mut command)?;
        ensure!(status.success(), "Firecracker ended with {status}");
        Ok(took)
    })();
    if result.is_ok() {
        host.join()
            .map_err(|_| anyhow!("the host's thread panicked"))??;
    }
    let said = || fs::read_to_string(&log).unwrap_or_default();
    result.with_context(|| format!("Firecracker said: {}", said().trim()))
}

fn machine(image: &Image, socket: &Path) -> serde_json::Value {
    let parameters = "sovereign.root=/dev/vda sovereign.rootfstype=erofs sovereign.overlay_mib=64";
    json!({
        "boot-source": {
            "kernel_image_path": image.kernel,
            "initrd_path": image.initramfs,
            "boot_args": format!("{} {parameters}", image.cmdline),
        },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 128 },
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

/// Waits for the guest's agent and tells it to switch the guest off.
fn switch_off(listener: &UnixListener) -> Result<()> {
    let (stream, _) = listener.accept().context("the guest did not connect")?;
    let options = SessionOptions {
        answer_timeout: DEADLINE,
        ..SessionOptions::default()
    };
    Session::new(stream, options)
        .power_off()
        .context("the guest's agent did not obey")
}
