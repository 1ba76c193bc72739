//! Running a command for a session.

pub(crate) mod account;
pub(crate) mod command;
mod ending;
mod failure;
mod input;
mod output;
pub(crate) mod relay;
pub(crate) mod stdio;
pub(crate) mod tree;

use std::time::{Duration, Instant};

use agent_protocol::from_agent::AgentFrame;
use agent_protocol::message::{AgentError, ExecRequest};
use rustix::process::Pid;

use crate::linux::connection::Connection;
use crate::linux::exec::account::Files;
use crate::linux::exec::command::{Command, ROOT};
use crate::linux::exec::relay::{Relay, Running};
use crate::linux::exec::stdio::{Ours, Stdio};
use crate::linux::fork::{Program, spawn};
use crate::linux::sys::SignalFd;

/// How long the host may take to take a refusal.
const REFUSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the command, and tells the host all about it.
pub(crate) fn serve(mut connection: Connection, request: &ExecRequest, signals: &SignalFd) {
    match start(request) {
        Ok((pid, ours)) => {
            let running = Running {
                pid,
                ours,
                began: Instant::now(),
                farewell: None,
            };
            Relay::new(connection, signals, request, running).run();
        }
        Err(error) => {
            connection.push(&AgentFrame::Error(error));
            connection.finish(Instant::now() + REFUSE_TIMEOUT);
        }
    }
}

/// Starts the command, or says why it cannot be.
fn start(request: &ExecRequest) -> Result<(Pid, Ours), AgentError> {
    let command = Command::resolve(request, &Files)?;
    let owner = command
        .identity()
        .map(|identity| (identity.uid, identity.gid));
    let stdio = Stdio::new(request, owner)?;
    let program = Program {
        candidates: &command.candidates,
        argv: &command.argv,
        env: &command.env,
        directory: &command.directory,
        fallback_directory: command.directory_is_default.then_some(ROOT),
        identity: command.identity(),
        stdio: stdio.theirs.fds(),
        has_terminal: request.tty.is_some(),
    };
    match spawn(&program) {
        Ok(pid) => Ok((pid, stdio.ours)),
        Err(failure) => {
            command.see_as_account();
            Err(failure::explain(&command, &failure))
        }
    }
}
