//! What a start is about.

use std::os::fd::BorrowedFd;
use std::path::Path;

use agent_protocol::message::ExecRequest;
use sandbox_image::progress::{Progress, Silent};

use crate::spec::SandboxSpec;

/// What a start is about.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// What the sandbox is made of.
    pub spec: &'a SandboxSpec,
    /// A command to ask for at once: the request lies ready when the agent comes up.
    pub request: Option<&'a ExecRequest>,
    /// Becomes readable when the caller gives up.
    pub cancel: Option<BorrowedFd<'a>>,
    /// The writing end of a pipe that does not block: what a guest writes to its console goes there.
    /// Tiers without a guest have no console, and do not use it.
    pub console: Option<BorrowedFd<'a>>,
    /// Where what is written in the sandbox is kept beyond its end, if that is wanted, and the spec
    /// does not want it in memory.
    pub keep: Option<&'a Path>,
    /// Have the guest tell the moments of its start.
    pub trace: bool,
    /// Files may be moved: a machine gets what makes that fast. Without it they go as command output
    /// does, and the guest has a little less to look at when it boots.
    pub moves_files: bool,
    /// Who is told of what takes its time on the way.
    pub progress: &'a dyn Progress,
}

impl<'a> Launch<'a> {
    /// The start of a sandbox like this, and nothing else.
    #[must_use]
    pub const fn new(spec: &'a SandboxSpec) -> Self {
        Self {
            spec,
            request: None,
            cancel: None,
            console: None,
            keep: None,
            trace: false,
            moves_files: true,
            progress: &Silent,
        }
    }

    /// Where what is written is kept, if it is: not if it is wanted in memory.
    pub(crate) const fn keep(&self) -> Option<&'a Path> {
        match self.spec.overlay_mib {
            None => self.keep,
            Some(_) => None,
        }
    }
}
