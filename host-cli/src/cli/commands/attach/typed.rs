//! What is typed, on its way to a command that a supervisor holds.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use agent_client::DetachKeys;
use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::stdio::stdin;

use crate::detached::{Detached, DetachedError};
use crate::error::{ErrorKind, Problem};
use crate::registry::RegistryError;

/// How much is read of what is typed at once.
const TYPED: usize = 4096;

/// Where what is typed goes.
pub(super) struct Typed<'a> {
    pub(super) sandbox: &'a Detached,
    pub(super) command: u32,
    pub(super) keys: DetachKeys<'a>,
    pub(super) input: Option<Input>,
}

/// The command's input.
pub(super) struct Input {
    /// Its writing end, which never blocks: a command need not read what is typed, and is heard all the same.
    pipe: OwnedFd,
    /// What has not gone in yet. Nothing more is read for it before.
    unwritten: Vec<u8>,
}

impl Input {
    /// The input whose writing end this is. Another description of the pipe: what does not block is for us
    /// alone so. None if nobody reads it.
    pub(super) fn new(pipe: &OwnedFd) -> Result<Option<Self>, Problem> {
        let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match open(path, flags, Mode::empty()) {
            Ok(pipe) => Ok(Some(Self {
                pipe,
                unwritten: Vec::new(),
            })),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(Problem::of(ErrorKind::Input, &error)),
        }
    }

    /// What has to happen before there is something to do.
    pub(super) fn waits_for(&self) -> (BorrowedFd<'_>, PollFlags) {
        if self.unwritten.is_empty() {
            (stdin(), PollFlags::IN)
        } else {
            (self.pipe.as_fd(), PollFlags::OUT)
        }
    }

    /// Writes as much as goes in now.
    fn write(&mut self) -> rustix::io::Result<()> {
        while !self.unwritten.is_empty() {
            match rustix::io::write(&self.pipe, &self.unwritten) {
                Ok(count) => drop(self.unwritten.drain(..count)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Typed<'_> {
    /// Passes on what was typed. Returns whether it was what one types to leave.
    pub(super) fn go_on(&mut self) -> Result<bool, Problem> {
        let leaves = match &self.input {
            Some(input) if input.unwritten.is_empty() => self.read()?,
            Some(_) | None => false,
        };
        if self
            .input
            .as_mut()
            .is_some_and(|input| input.write().is_err())
        {
            // Nobody reads it any more.
            self.input = None;
        }
        Ok(leaves)
    }

    /// Reads what was typed. Returns whether it was what one types to leave.
    fn read(&mut self) -> Result<bool, Problem> {
        let mut space = vec![0; TYPED + self.keys.held_back()];
        let room = space.get_mut(..TYPED).unwrap_or_default();
        let count = match rustix::io::read(stdin(), room) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            // A terminal that hung up.
            Err(_) => 0,
        };
        if count == 0 {
            self.input = None;
            return match self.sandbox.close_input(self.command) {
                Err(error) if !is_over(&error) => Err(error.into()),
                Ok(()) | Err(_) => Ok(false),
            };
        }
        let Some(count) = self.keys.filter(&mut space, count) else {
            return Ok(true);
        };
        space.truncate(count);
        if let Some(input) = &mut self.input {
            input.unwritten = space;
        }
        Ok(false)
    }
}

/// Whether a command was not there to be told something: it has ended, which will be read.
pub(super) const fn is_over(error: &DetachedError) -> bool {
    matches!(
        error,
        DetachedError::Refused(_)
            | DetachedError::NotRunning { .. }
            | DetachedError::Registry(RegistryError::NoSuchSandbox { .. })
    )
}
