//! The guest agent: runs commands for the host, in whatever isolates it.
//!
//! Started by a kernel as `/init` it is also the guest's init. See `--help` for the other ways.

use std::process::ExitCode;

mod arguments;
#[cfg(target_os = "linux")]
mod linux;

fn main() -> ExitCode {
    let role = arguments::Role::from_args(std::env::args_os());
    #[cfg(target_os = "linux")]
    return linux::run(role);
    #[cfg(not(target_os = "linux"))]
    return arguments::run_elsewhere(role);
}
