//! Where a command's two outputs go.

use std::time::Instant;

use agent_protocol::message::OutputStream;

use crate::linux::sink::{OutputTarget, Sink};

/// Both of them.
pub(super) struct Outputs<'a> {
    pub(super) stdout: Sink<'a>,
    pub(super) stderr: Sink<'a>,
    /// When an output was last seen waiting for its reader.
    pub(super) stalled: Option<Instant>,
}

impl<'a> Outputs<'a> {
    pub(super) fn new(stdout: OutputTarget<'a>, stderr: OutputTarget<'a>) -> Self {
        Self {
            stdout: Sink::new(stdout),
            stderr: Sink::new(stderr),
            stalled: None,
        }
    }

    pub(super) fn sink(&mut self, stream: OutputStream) -> &mut Sink<'a> {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }

    /// Whether one of them has something that its reader has not taken yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.stdout.is_waiting() || self.stderr.is_waiting()
    }

    /// Whether one of them has dropped something.
    pub(super) fn have_dropped(&self) -> bool {
        self.stdout.has_dropped() || self.stderr.has_dropped()
    }
}
