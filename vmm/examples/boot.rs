//! Boots the machine that a JSON file describes and prints what happens to it.
//!
//! ```text
//! boot MACHINE.json                       in this process, by the library
//! boot MACHINE.json PATH/sovereign-vmm    in a VMM process of its own, by the control protocol
//! ```
//!
//! A machine looks like this (see `vmm::config::MachineConfig`):
//!
//! ```json
//! {"vcpus": 1, "memory_mib": 128, "kernel": "vmlinux", "initramfs": "initramfs.cpio",
//!  "cmdline": "console=ttyS0", "discovery": "acpi", "disks": [], "vsock": null, "entropy": true,
//!  "console_bytes": 65536}
//! ```

use std::error::Error;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use vmm::config::MachineConfig;
use vmm::control::{self, CONTROL_FD, Event, MAX_MESSAGE};
use vmm::machine::{Machine, Trace};

/// A guest that has not ended by then is stopped.
const DEADLINE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn Error>> {
    // Before anything else is opened: the lower end has to be the descriptor that the VMM looks for.
    let (theirs, ours) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [machine] => boot_here(&read(machine)?),
        [machine, program] => {
            let config = read(machine)?;
            let mut child = spawn(Path::new(program), theirs)?;
            boot_there(config, &ours)?;
            child.wait()?;
            Ok(())
        }
        _ => Err("usage: boot MACHINE.json [PATH/sovereign-vmm]".into()),
    }
}

fn read(path: &str) -> Result<MachineConfig, Box<dyn Error>> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Builds and runs the machine in this process, unconfined.
fn boot_here(config: &MachineConfig) -> Result<(), Box<dyn Error>> {
    let mut trace = Trace::default();
    let machine = Machine::build(config, &mut trace)?;
    let mut running = machine.start(|_role| ())?;
    print_trace(&trace.into_points());
    let handle = running.handle();
    std::thread::spawn(move || {
        std::thread::sleep(DEADLINE);
        handle.stop();
    });
    let reason = running.wait()?;
    println!(
        "{}",
        String::from_utf8_lossy(&running.handle().console_tail(usize::MAX))
    );
    println!("stopped: {reason:?}");
    Ok(())
}

/// Starts a VMM process with its end of the control socket.
fn spawn(program: &Path, theirs: OwnedFd) -> Result<Child, Box<dyn Error>> {
    if theirs.as_raw_fd() != CONTROL_FD {
        return Err("descriptor 3 is taken: start this with standard streams only".into());
    }
    fcntl_setfd(&theirs, FdFlags::empty())?;
    Ok(Command::new(program).stdin(Stdio::null()).spawn()?)
}

/// Has the machine run in the VMM process.
fn boot_there(config: MachineConfig, ours: &OwnedFd) -> Result<(), Box<dyn Error>> {
    let start = control::Command::Start {
        config: Box::new(config),
    };
    send(ours, &serde_json::to_vec(&start)?, SendFlags::NOSIGNAL)?;
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let (received, _) = recv(ours, buffer.as_mut_slice(), RecvFlags::empty())?;
        if received == 0 {
            return Err("the VMM has gone without a word".into());
        }
        match serde_json::from_slice(&buffer[..received])? {
            Event::Started { trace } => print_trace(&trace),
            Event::Stopped { reason, console } => {
                println!("{console}");
                println!("stopped: {reason:?}");
                return Ok(());
            }
            Event::Failed { message, hint } => {
                return Err(format!("{message} ({})", hint.unwrap_or_default()).into());
            }
            event @ (Event::Paused | Event::Resumed) => println!("{event:?}"),
        }
    }
}

/// Prints each step with the microseconds it took.
fn print_trace(trace: &[control::TracePoint]) {
    for pair in trace.windows(2) {
        let took = pair[1].monotonic_ns.saturating_sub(pair[0].monotonic_ns) / 1000;
        println!("{:>8} us  {}", took, pair[1].name);
    }
}
