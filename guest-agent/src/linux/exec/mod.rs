//! Running a command for a session.

pub(crate) mod account;
mod cgroup;
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
use crate::linux::exec::cgroup::Cgroup;
use crate::linux::exec::command::{Command, ROOT};
use crate::linux::exec::relay::{Relay, Running};
use crate::linux::exec::stdio::{Ours, Stdio};
use crate::linux::fork::{Program, spawn};
use crate::linux::sys::SignalFd;

/// How long the host may take to take a refusal.
const REFUSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the command, and tells the host all about it. Only an agent that is init can bound the
/// command's processes.
pub(crate) fn serve(
    mut connection: Connection,
    request: &ExecRequest,
    signals: &SignalFd,
    is_init: bool,
) {
    match start(request, is_init) {
        Ok(Started {
            pid,
            ours,
            began,
            cgroup,
        }) => {
            let running = Running {
                pid,
                ours,
                began,
                farewell: None,
            };
            Relay::new(connection, signals, request, running).run();
            drop(cgroup);
        }
        Err(error) => {
            connection.push(&AgentFrame::Error(error));
            connection.finish(Instant::now() + REFUSE_TIMEOUT);
        }
    }
}

/// A command that runs.
struct Started {
    pid: Pid,
    ours: Ours,
    began: Instant,
    cgroup: Option<Cgroup>,
}

/// Starts the command, or says why it cannot be.
fn start(request: &ExecRequest, is_init: bool) -> Result<Started, AgentError> {
    let command = Command::resolve(request, &Files)?;
    let cgroup = request.processes.map(|processes| match is_init {
        true => Cgroup::new(processes),
        false => Err(cgroup::refusal(
            processes,
            "only in a virtual machine can one command be counted".to_owned(),
        )),
    });
    let cgroup = cgroup.transpose()?;
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
        cgroup: cgroup.as_ref().map(Cgroup::members),
        limits: &request.limits,
    };
    // Afterwards it may have run for a while already: who waits for a new process has its turn late.
    let began = Instant::now();
    match spawn(&program) {
        Ok(pid) => Ok(Started {
            pid,
            ours: stdio.ours,
            began,
            cgroup,
        }),
        Err(failure) => {
            command.see_as_account();
            Err(failure::explain(&command, &request.limits, &failure))
        }
    }
}
