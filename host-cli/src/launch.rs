//! What a start is about.

use std::os::fd::BorrowedFd;

use agent_protocol::message::ExecRequest;

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
    /// Have the guest tell the moments of its start.
    pub trace: bool,
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
            trace: false,
        }
    }
}
