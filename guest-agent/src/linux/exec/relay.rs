//! A running command: its data, to and fro, and its end.
//!
//! **When is a command over?** When its own process has ended and its output is at an end. If other
//! processes still hold its output open, then what lay in its pipes when it ended is passed on,
//! however long the host takes to read it, and whatever comes within [`GRACE`]; nothing more is waited
//! for. So a daemon that was left behind neither holds up the exit report nor is killed: it stays in
//! the sandbox, its output without a reader. And a pipeline's last words, a few milliseconds late,
//! still arrive. A terminal does not tell all that lies in it: it is read until it is empty, or as much as
//! one could hold has come.
//!
//! **When its time is up**, or the host has gone, everything below this session ends, daemons too
//! ([`Ending`]).

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use agent_protocol::frame::{FrameError, Kind, MAX_DATA};
use agent_protocol::from_agent::AgentFrame;
use agent_protocol::from_host::HostFrame;
use agent_protocol::message::{ExecRequest, ExitReport, OutputStream};
use rustix::event::PollFlags;
use rustix::process::{Pid, WaitOptions, WaitStatus};
use rustix::termios::tcgetpgrp;

use crate::linux::connection::{Connection, Gone};
use crate::linux::exec::ending::Ending;
use crate::linux::exec::input::{Input, News};
use crate::linux::exec::output::Output;
use crate::linux::exec::stdio::{self, Ours};
use crate::linux::poll::poll_some;
use crate::linux::session::violation;
use crate::linux::sys::{SignalFd, Target, send_signal};

/// How long after a command's end others may still add to its output.
const GRACE: Duration = Duration::from_millis(100);
/// No output is read while so much waits for the stream.
const MAX_OUTGOING: usize = 2 * MAX_DATA;
/// How long the host may take to take the exit report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);

/// A command that has been started.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) pid: Pid,
    pub(crate) ours: Ours,
    pub(crate) began: Instant,
    /// How long it may still run once the host is gone, and its streams with it; not at all without.
    pub(crate) farewell: Option<Duration>,
}

/// A session whose command runs.
#[derive(Debug)]
pub(crate) struct Relay<'a> {
    connection: Connection,
    signals: &'a SignalFd,
    command: Process,
    input: Input,
    stdout: Output,
    stderr: Output,
    terminal: Option<OwnedFd>,
    ending: Ending,
    farewell: Option<Duration>,
    /// The host is gone, or has broken the protocol: nobody waits for a report.
    is_abandoned: bool,
}

/// The command's own process, and what is known of those below it.
#[derive(Debug)]
struct Process {
    pid: Pid,
    began: Instant,
    exit: Option<(WaitStatus, Instant)>,
    /// Whether this session has any child, dead or alive.
    has_children: bool,
}

/// What there is to do.
#[derive(Debug, Clone, Copy)]
struct Ready {
    signals: bool,
    stream: bool,
    stdin: PollFlags,
    stdout: PollFlags,
    stderr: PollFlags,
}

impl<'a> Relay<'a> {
    pub(crate) fn new(
        connection: Connection,
        signals: &'a SignalFd,
        request: &ExecRequest,
        running: Running,
    ) -> Self {
        let Running {
            pid,
            ours,
            began,
            farewell,
        } = running;
        let is_terminal = ours.terminal.is_some();
        let output = |kind, fd| Output::new(kind, fd, is_terminal, request.max_output);
        Self {
            connection,
            signals,
            command: Process {
                pid,
                began,
                exit: None,
                has_children: true,
            },
            input: Input::new(ours.stdin, is_terminal),
            stdout: output(Kind::Stdout, Some(ours.stdout)),
            stderr: output(Kind::Stderr, ours.stderr),
            terminal: ours.terminal,
            ending: Ending::new(request, began),
            farewell,
            is_abandoned: false,
        }
    }

    /// Relays until the command is over and the host knows, or everything below has been killed.
    pub(crate) fn run(mut self) {
        let started = AgentFrame::Started {
            pid: self.command.pid.as_raw_nonzero().get().unsigned_abs(),
        };
        if self.input.poll_fd().is_none() {
            self.connection.push_held(&started);
        } else {
            // The host waits for it before it sends any input.
            self.connection.push(&started);
        }
        // The host may have sent more along with its request.
        self.take_frames();
        loop {
            if let Some(report) = self.report() {
                if !self.is_abandoned {
                    self.connection.push(&AgentFrame::Exited(report));
                    self.connection.finish(Instant::now() + REPORT_TIMEOUT);
                }
                return;
            }
            if !self.is_abandoned && self.connection.send() == Err(Gone) {
                self.abandon();
            }
            let ready = self.wait();
            let mut reaped = false;
            if ready.signals {
                reaped = self.take_signals();
            }
            if ready.stream {
                self.receive();
            }
            if ready.stdin.contains(PollFlags::ERR) {
                // Nobody reads it any more, and the poll would say so for ever.
                self.input.close();
                self.connection.push(&AgentFrame::StdinClosed);
            } else if !ready.stdin.is_empty() {
                self.write_input();
            }
            self.stdout.relay(ready.stdout, self.connection.writer());
            self.stderr.relay(ready.stderr, self.connection.writer());
            self.ending.advance(self.command.exit.is_none(), reaped);
        }
    }

    /// The report, once the command is over.
    fn report(&self) -> Option<ExitReport> {
        let (status, at) = self.command.exit?;
        if !self.ending.is_over(self.command.has_children) {
            return None;
        }
        let is_open = self.stdout.is_open() || self.stderr.is_open();
        let is_settled = self.stdout.is_settled() && self.stderr.is_settled();
        if is_open && !(is_settled && at.elapsed() >= GRACE) {
            return None;
        }
        let number = |value: i32| u8::try_from(value).ok();
        Some(ExitReport {
            code: status.exit_status().and_then(number),
            signal: status.terminating_signal().and_then(number),
            timed_out: self.ending.timed_out(),
            truncated: self.stdout.is_truncated() || self.stderr.is_truncated(),
            duration: at.saturating_duration_since(self.command.began),
        })
    }

    fn wait(&self) -> Ready {
        // Of a session that is given up nothing is sent any more, and what is read is dropped.
        let may_read = self.is_abandoned || self.connection.pending() < MAX_OUTGOING;
        let try_stdout = may_read && self.stdout.is_to_be_tried();
        let stream = (!self.is_abandoned).then(|| {
            let is_blocked =
                self.connection.pending() > 0 && self.connection.held_until().is_none();
            let out = if is_blocked {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            (self.connection.as_fd(), PollFlags::IN | out)
        });
        let stdin = self.input.poll_fd().map(|(fd, is_waiting)| {
            (
                fd,
                if is_waiting {
                    PollFlags::OUT
                } else {
                    PollFlags::empty()
                },
            )
        });
        let stdout = self
            .stdout
            .poll_fd()
            .filter(|_| may_read)
            .map(|fd| (fd, PollFlags::IN));
        let stderr = self
            .stderr
            .poll_fd()
            .filter(|_| may_read)
            .map(|fd| (fd, PollFlags::IN));
        let signals = Some((self.signals.as_fd(), PollFlags::IN));
        let wanted = [signals, stream, stdin, stdout, stderr];
        let deadline = if try_stdout {
            Some(Instant::now())
        } else {
            self.deadline()
        };
        let [signals, stream, stdin, mut stdout, stderr] = poll_some(wanted, deadline);
        if try_stdout {
            stdout |= PollFlags::IN;
        }
        Ready {
            signals: !signals.is_empty(),
            stream: !stream.is_empty(),
            stdin,
            stdout,
            stderr,
        }
    }

    /// When there is something to do even if nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let is_settled = self.stdout.is_settled() && self.stderr.is_settled();
        // As long as others are waited for, nothing happens when it is over.
        let is_last = is_settled && self.ending.is_over(self.command.has_children);
        let grace = self
            .command
            .exit
            .filter(|_| is_last)
            .map(|(_, at)| at + GRACE);
        let ending = self.ending.deadline(self.command.exit.is_none());
        let held = self.connection.held_until().filter(|_| !self.is_abandoned);
        [grace, ending, held].into_iter().flatten().min()
    }

    /// Reaps what has ended below this session. `true` if anything has.
    fn take_signals(&mut self) -> bool {
        if self.signals.drain().end.is_some() {
            self.abandon();
        }
        let mut reaped = false;
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    reaped = true;
                    if pid == self.command.pid && self.command.exit.is_none() {
                        self.command.exit = Some((status, Instant::now()));
                        self.stdout.settle();
                        self.stderr.settle();
                    }
                }
                Ok(None) => return reaped,
                Err(_) => {
                    self.command.has_children = false;
                    return reaped;
                }
            }
        }
    }

    fn receive(&mut self) {
        match self.connection.receive() {
            Ok(()) => self.take_frames(),
            Err(Gone) => self.abandon(),
        }
    }

    fn take_frames(&mut self) {
        if let Err(error) = self.obey() {
            self.connection.push(&AgentFrame::Error(violation(error)));
            // The host that breaks the protocol may not be reading either.
            let _ = self.connection.send();
            self.abandon();
        }
        self.write_input();
    }

    fn obey(&mut self) -> Result<(), FrameError> {
        while let Some(frame) = self.connection.next_frame()? {
            match frame {
                HostFrame::Stdin(data) => self.input.push(data)?,
                HostFrame::StdinEof => self.input.end()?,
                HostFrame::Credit(credit) => match credit.stream {
                    OutputStream::Stdout => self.stdout.grant(credit.bytes)?,
                    OutputStream::Stderr => self.stderr.grant(credit.bytes)?,
                },
                HostFrame::CloseOutput(OutputStream::Stdout) => self.stdout.close(),
                HostFrame::CloseOutput(OutputStream::Stderr) => self.stderr.close(),
                HostFrame::Signal(number @ 1..=64) => self.command.signal(&self.terminal, number),
                HostFrame::Signal(_) => return Err(FrameError::Malformed(Kind::Signal)),
                HostFrame::Resize(size) => {
                    if let Some(terminal) = &self.terminal {
                        // A terminal whose command has just ended needs no size.
                        let _ = stdio::resize(terminal, size);
                    }
                }
                HostFrame::Hello(_) | HostFrame::Request(_) => {
                    return Err(FrameError::Unexpected(frame.kind()));
                }
            }
        }
        Ok(())
    }

    /// Passes input on, as far as the command takes it.
    fn write_input(&mut self) {
        match self.input.flush() {
            News::None => {}
            News::Credit(bytes) => self.connection.push(&AgentFrame::Credit(bytes)),
            News::Closed => self.connection.push(&AgentFrame::StdinClosed),
        }
    }

    /// Gives the session up: from now on everything below it is killed, or soon.
    fn abandon(&mut self) {
        self.is_abandoned = true;
        self.input.close();
        self.stdout.close();
        self.stderr.close();
        match self.farewell {
            Some(patience) => self.ending.kill_after(patience),
            None => self.ending.kill(),
        }
    }
}

impl Process {
    /// Sends a signal to the foreground of its terminal, or to its own process group.
    fn signal(&self, terminal: &Option<OwnedFd>, number: u8) {
        if self.exit.is_some() {
            return;
        }
        let foreground = terminal
            .as_ref()
            .and_then(|terminal| tcgetpgrp(terminal).ok());
        let group = Target::Group(foreground.unwrap_or(self.pid));
        // It can only be gone.
        let _ = send_signal(group, i32::from(number));
    }
}
