//! The agent's main loop: accepts sessions, forks a process for each, reaps, and ends in order.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{self, ExitCode};
use std::time::{Duration, Instant};

use agent_protocol::from_agent::AgentFrame;
use agent_protocol::message::{AgentError, Hello};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions, getpid, getppid};

use crate::linux::confine::control::Incoming;
use crate::linux::confine::filter;
use crate::linux::confine::privileges::forbid_core_dumps;
use crate::linux::connection::Connection;
use crate::linux::exec::tree;
use crate::linux::fork::{Forked, fork};
use crate::linux::listen::{Listener, connect_to_host};
use crate::linux::oom::OomScore;
use crate::linux::poll::time_left;
use crate::linux::reason::reason;
use crate::linux::session::{self, Agent, Verdict};
use crate::linux::sys::{self, Sender, SignalFd, Target};

/// More sessions at a time wait in the socket's queue until one ends.
const MAX_SESSIONS: usize = 1024;
/// How long everything may take to end after SIGTERM, and again after SIGKILL.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the host may take to take a refusal, which fits in any stream's buffer.
const REFUSE_TIMEOUT: Duration = Duration::from_millis(100);

/// The agent's main process.
#[derive(Debug)]
pub(crate) struct Server {
    listener: Listener,
    signals: SignalFd,
    agent: Agent,
    sessions: Vec<Pid>,
    /// Its own, if sessions and commands are to be taken before it when memory runs out.
    oom_score: Option<OomScore>,
    /// Whether processes of its own namespace that are no session can tell it to end.
    heeds_commands: bool,
}

/// Where a session's stream comes from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// The host has connected.
    Accepted(OwnedFd),
    /// The host waits on this port; the session's process connects to it.
    HostPort(u32),
}

/// Serves a new Unix socket until told to end.
pub(crate) fn listen_at(path: &Path) -> ExitCode {
    report(
        Listener::unix(path)
            .map_err(|error| format!("listening at {}: {}", path.display(), reason(error)))
            .and_then(serve_listener),
    )
}

/// Serves the streams that come by the control socket of the host that listens at this path, until
/// the host closes it.
pub(crate) fn control_at(path: &Path) -> ExitCode {
    report(
        Listener::control(path)
            .map_err(|error| format!("connecting to {}: {}", path.display(), reason(error)))
            .and_then(serve_control),
    )
}

pub(crate) fn serve_control(listener: Listener) -> Result<(), String> {
    sys::reset_ignored_signals();
    // What belongs to a process without a dump belongs to root.
    let oom_score = OomScore::of_this_process().ok();
    // Commands may be of the agent's own user: its memory and its control socket are not theirs.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(reason)?;
    let mut server = Server::new(listener, Agent::default()).map_err(reason)?;
    server.oom_score = oom_score;
    if getpid() == Pid::INIT {
        // Container engines have limits and filters of their own, each with other holes.
        forbid_core_dumps()
            .and_then(|()| filter::apply())
            .map_err(|shortfall| format!("{}: {}", shortfall.step, shortfall.about))?;
        server.run_until_closed().map_err(reason)
    } else {
        server.run().map_err(reason)
    }
}

/// Serves a socket that the agent was started with: one session, or those that a listener takes.
pub(crate) fn descriptor(number: i32) -> ExitCode {
    report(
        sys::inherited(number)
            .map_err(|error| format!("descriptor {number}: {}", reason(error)))
            .and_then(serve_descriptor),
    )
}

fn serve_descriptor(socket: OwnedFd) -> Result<(), String> {
    match rustix::net::sockopt::socket_acceptconn(&socket) {
        Ok(true) => Listener::inherited(socket)
            .map_err(|error| format!("listening: {}", reason(error)))
            .and_then(serve_listener),
        Ok(false) => serve_stream(socket),
        Err(error) => Err(format!("not a socket: {}", reason(error))),
    }
}

fn serve_listener(listener: Listener) -> Result<(), String> {
    sys::reset_ignored_signals();
    Server::new(listener, Agent::default())
        .and_then(Server::run)
        .map_err(reason)
}

/// The one session is served by the agent's main process itself.
fn serve_stream(stream: OwnedFd) -> Result<(), String> {
    sys::reset_ignored_signals();
    let signals = SignalFd::new().map_err(reason)?;
    become_subreaper().map_err(reason)?;
    session::serve(stream, &signals, &Agent::default());
    Ok(())
}

pub(crate) fn report(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("sovereign-agent: {problem}");
            ExitCode::FAILURE
        }
    }
}

impl Server {
    pub(crate) fn new(listener: Listener, agent: Agent) -> io::Result<Self> {
        let signals = SignalFd::new()?;
        if getpid() != Pid::INIT {
            become_subreaper()?;
        }
        Ok(Self {
            listener,
            signals,
            agent,
            sessions: Vec::new(),
            oom_score: None,
            heeds_commands: true,
        })
    }

    /// Serves until a signal or a session says that it is enough; then every process that it is
    /// responsible for has ended.
    pub(crate) fn run(mut self) -> io::Result<()> {
        while !self.turn()? {}
        self.end();
        Ok(())
    }

    /// Serves until it is enough, and leaves it to the kernel to end what is left: for the first
    /// process of a namespace, with which all others in it end. Its commands, which may be of its own
    /// user, cannot tell it when.
    pub(crate) fn run_until_closed(mut self) -> io::Result<()> {
        self.heeds_commands = false;
        while !self.turn()? {}
        Ok(())
    }

    /// Forks a process for a session. If there cannot be one, the host is told, and nothing else ends.
    pub(crate) fn start_session(&mut self, origin: Origin) {
        let agent_pid = getpid();
        let forked = match &self.oom_score {
            Some(score) => score.while_expendable(fork),
            None => fork(),
        };
        match forked {
            Ok(Forked::Parent(pid)) => self.sessions.push(pid),
            Ok(Forked::Child) => {
                if let Ok(stream) = origin.connect() {
                    run_session(stream, &self.signals, &self.agent, agent_pid);
                }
                process::exit(0);
            }
            Err(error) => origin.refuse(&error),
        }
    }

    /// Waits for something and does it. `true` when it is time to end.
    fn turn(&mut self) -> io::Result<bool> {
        let mut fds = [
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        let wanted = if self.sessions.len() < MAX_SESSIONS {
            2
        } else {
            1
        };
        let polled = fds.get_mut(..wanted).unwrap_or_default();
        match poll(polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [signalled, connected] = fds.map(|fd| !fd.revents().is_empty());
        if signalled {
            let signals = self.signals.drain();
            // A session that tells it may have ended meanwhile.
            let is_end = signals.end.is_some_and(|sender| self.heeds(sender));
            self.reap();
            if is_end {
                return Ok(true);
            }
        }
        if connected {
            match self.listener.accept()? {
                Incoming::Stream(stream) => self.start_session(Origin::Accepted(stream)),
                Incoming::Nothing => {}
                Incoming::End => return Ok(true),
            }
        }
        Ok(false)
    }

    fn heeds(&self, sender: Sender) -> bool {
        match sender {
            Sender::Outside => true,
            Sender::Process(pid) if self.sessions.contains(&pid) => true,
            Sender::Process(_) | Sender::Unknown => self.heeds_commands,
        }
    }

    /// Reaps sessions, and the orphans that are ours as the first process or as a subreaper. `true`
    /// when no child is left at all.
    fn reap(&mut self) -> bool {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, _))) => self.sessions.retain(|session| *session != pid),
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Ends every session and what their commands have left running, politely first.
    fn end(&mut self) {
        for signal in [Signal::TERM, Signal::KILL] {
            if self.reap() {
                return;
            }
            let deadline = Instant::now() + END_TIMEOUT;
            self.signal_all(signal);
            while !self.reap() && Instant::now() < deadline {
                let next = Instant::now() + Duration::from_millis(20);
                let mut fds = [PollFd::new(&self.signals, PollFlags::IN)];
                let _ = poll(&mut fds, Some(&time_left(next.min(deadline))));
                self.signals.drain();
                if signal == Signal::KILL {
                    self.signal_all(signal);
                }
            }
        }
    }

    fn signal_all(&self, signal: Signal) {
        if getpid() == Pid::INIT {
            // The first process of its namespace: all others there are its business.
            let _ = sys::send_signal(Target::All, signal.as_raw());
        } else {
            tree::signal_descendants(signal);
        }
    }
}

impl Origin {
    fn connect(self) -> io::Result<OwnedFd> {
        match self {
            Self::Accepted(stream) => Ok(stream),
            Self::HostPort(port) => connect_to_host(port),
        }
    }

    /// Says on the stream, if there is one, why there is no session.
    fn refuse(self, error: &io::Error) {
        if let Self::Accepted(stream) = self {
            let mut connection = Connection::new(stream);
            connection.push(&AgentFrame::Hello(Hello::new()));
            connection.push(&AgentFrame::Error(AgentError::System {
                doing: "starting a process for the session".to_owned(),
                reason: error.to_string(),
            }));
            connection.finish(Instant::now() + REFUSE_TIMEOUT);
        }
    }
}

fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(getpid()))?)
}

/// A session's process.
fn run_session(stream: OwnedFd, signals: &SignalFd, agent: &Agent, agent_pid: Pid) {
    if become_subreaper().is_err() {
        return;
    }
    if agent_pid != Pid::INIT {
        // An agent that is killed takes its sessions along, and they their commands. (The end of the
        // first process ends everything anyway.)
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
        if getppid() != Some(agent_pid) {
            return;
        }
    }
    if session::serve(stream, signals, agent) == Verdict::PowerOff {
        let _ = sys::send_signal(Target::Process(agent_pid), Signal::TERM.as_raw());
    }
}
