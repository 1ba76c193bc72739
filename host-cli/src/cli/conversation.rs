//! A command and this program's own descriptors: what `run`, `exec` and `attach` have in common.

use std::io;

use agent_client::{ClientError, Exec, Finished, InputSource, OutputTarget, PumpIo, Pumped};
use agent_protocol::message::ExecRequest;
use rustix::stdio::{stderr, stdin, stdout};

use super::plan::run::OutputPlan;
use super::signals::Signals;
use super::terminal::RawMode;
use crate::error::{ErrorKind, Problem};

/// How a command is talked to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conversation<'a> {
    pub(super) request: &'a ExecRequest,
    pub(super) output: OutputPlan,
    pub(super) signals: &'a Signals,
    /// What is typed to leave it running; nothing if it cannot be left.
    pub(super) detach_keys: &'a [u8],
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Talked {
    pub(super) outcome: Outcome,
    /// What was collected of standard output and of standard error.
    pub(super) collected: [Vec<u8>; 2],
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The command has ended.
    Finished(Finished),
    /// The user left it running.
    Left(Box<Exec>),
    /// It broke off.
    Broken(ClientError),
}

impl Conversation<'_> {
    /// Moves the command's data until it has ended or is left.
    ///
    /// # Errors
    ///
    /// If the terminal cannot be had.
    pub(super) fn hold(self, exec: Exec) -> Result<Talked, Problem> {
        let raw = if self.request.tty.is_some() {
            prepare_terminal(self.request.stdin, self.signals)?
        } else {
            None
        };
        let [mut collected_out, mut collected_err] = [Vec::new(), Vec::new()];
        let [to_stdout, to_stderr] = match self.output {
            OutputPlan::Live => [OutputTarget::Fd(stdout()), OutputTarget::Fd(stderr())],
            OutputPlan::Json { limit } => [&mut collected_out, &mut collected_err]
                .map(|into| OutputTarget::Collect { into, limit }),
        };
        let io = PumpIo {
            stdin: if self.request.stdin {
                InputSource::Fd(stdin())
            } else {
                InputSource::Empty
            },
            stdout: to_stdout,
            stderr: to_stderr,
            controls: Some(self.signals.orders()),
            detach_keys: if self.request.tty.is_some() {
                self.detach_keys
            } else {
                &[]
            },
        };
        let outcome = match exec.pump_until_detached(io) {
            Ok(Pumped::Finished(finished)) => Outcome::Finished(finished),
            Ok(Pumped::Detached(exec)) => Outcome::Left(exec),
            Err(error) => Outcome::Broken(error),
        };
        drop(raw);
        Ok(Talked {
            outcome,
            collected: [collected_out, collected_err],
        })
    }
}

/// Makes the user's terminal that of the command.
///
/// # Errors
///
/// If it cannot be had.
pub(super) fn prepare_terminal(typed: bool, signals: &Signals) -> Result<Option<RawMode>, Problem> {
    let failed = |error: io::Error| Problem::of(ErrorKind::Terminal, &error);
    let raw = if typed {
        RawMode::enter().map_err(failed)?
    } else {
        None
    };
    signals.follow_terminal().map_err(failed)?;
    Ok(raw)
}
