//! A command run to its end, with its output in memory.

use agent_protocol::message::ExitReport;

use crate::error::ClientError;
use crate::linux::pump::PumpIo;
use crate::linux::session::Exec;
use crate::linux::sink::OutputTarget;
use crate::linux::source::InputSource;

/// What a command did. `report.truncated` tells whether output is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub report: ExitReport,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    pub(crate) fn collect(exec: Exec, input: &[u8], limit: usize) -> Result<Self, ClientError> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let finished = exec.pump(PumpIo {
            stdin: InputSource::Bytes(input),
            stdout: OutputTarget::Collect {
                into: &mut stdout,
                limit,
            },
            stderr: OutputTarget::Collect {
                into: &mut stderr,
                limit,
            },
            controls: None,
            ..PumpIo::default()
        })?;
        Ok(Self {
            report: finished.report,
            stdout,
            stderr,
        })
    }
}
