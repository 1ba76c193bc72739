//! `sovereign supervise`: what `run -d` and `start` make of this program. Not for people.

use std::process::{Command, Stdio};

use rustix::stdio::stdin;

use crate::cli::args::SuperviseArgs;
use crate::error::Problem;
use crate::supervisor::{self, OwnCommand};

/// Supervises a sandbox: in a process that is nobody's child, so that whoever started it need not
/// reap it.
///
/// # Errors
///
/// If nobody could be told how the start went.
pub(in crate::cli) fn supervise(args: &SuperviseArgs) -> Result<u8, Problem> {
    if args.stay {
        let owner = stdin().try_clone_to_owned()?;
        let own = if args.clients_command {
            OwnCommand::Clients
        } else {
            OwnCommand::Held
        };
        supervisor::run(&args.root, &args.id, own, owner)?;
        return Ok(0);
    }
    let program = std::env::current_exe()?;
    Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--stay")
        .stdin(Stdio::inherit())
        .spawn()?;
    Ok(0)
}
