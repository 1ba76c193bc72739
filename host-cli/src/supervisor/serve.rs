//! What a supervisor does while its sandbox runs: one thread that waits for whatever comes first.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use agent_client::ClientError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::clients::{Client, Wants, command_end};
use super::commands::{Commands, OWN};
use super::console::Console;
use super::door::Door;
use super::message::{DETACH, Outcome, Reply, send};
use super::{Begun, close, forget_and_remove, note};
use crate::error::{ErrorKind, Problem};
use crate::registry::Held;
use crate::registry::events::{Event, Happening};
use crate::registry::record::{Ending, Record, Status, Timestamp};
use crate::sandbox::{ExecError, Sandbox};
use crate::tier::packets;

/// How long a sandbox may take to write down what it keeps, and how long one that was killed may.
const SETTLE: Duration = Duration::from_secs(20);
const SETTLE_KILLED: Duration = Duration::from_secs(3);

/// How often it is seen whether the sandbox's folder is still there.
const LOOK: Duration = Duration::from_secs(10);

/// How long what commands wrote may take to be written down when their sandbox has ended.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// How long the one who started a sandbox may take to let go of it when it has ended.
const OWNER_PATIENCE: Duration = Duration::from_secs(10);

/// A sandbox that runs, and everybody who has to do with it.
pub(super) struct Supervisor {
    pub(super) held: Held,
    pub(super) record: Record,
    pub(super) sandbox: Sandbox,
    /// Becomes readable when the process that holds the sandbox has ended.
    process: Option<OwnedFd>,
    pub(super) commands: Commands,
    door: Door,
    console: Console,
    /// The one who started it, if it ends with him.
    owner: Option<OwnedFd>,
    pub(super) clients: Vec<Client>,
    ends_at: Option<Instant>,
    idle_since: Instant,
    looked: Instant,
    stopping: Option<Stopping>,
}

/// An end that has begun.
struct Stopping {
    ending: Ending,
    at: Instant,
}

/// What has happened.
struct Woken {
    door: bool,
    commands: bool,
    process: bool,
    owner: bool,
}

impl Supervisor {
    pub(super) fn new(held: Held, record: Record, begun: Begun, owner: OwnedFd) -> Self {
        let Begun {
            sandbox,
            commands,
            door,
            console,
        } = begun;
        let now = Instant::now();
        let process = Pid::from_raw(sandbox.process_id())
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Self {
            ends_at: record
                .plan
                .max_duration
                .and_then(|duration| now.checked_add(duration)),
            idle_since: now,
            looked: now,
            stopping: None,
            clients: Vec::new(),
            owner: Some(owner),
            process,
            held,
            record,
            sandbox,
            commands,
            door,
            console,
        }
    }

    /// Serves until the sandbox has ended.
    pub(super) fn serve(mut self) {
        let ending = loop {
            match self.step() {
                Ok(None) => {}
                Ok(Some(ending)) => break ending,
                Err(error) => {
                    let problem = Problem::of(ErrorKind::System, &error);
                    break Ending::Broken { problem };
                }
            }
        };
        self.end(ending);
    }

    /// Waits for something to happen and deals with it. Returns the sandbox's end.
    fn step(&mut self) -> io::Result<Option<Ending>> {
        let woken = self.wait()?;
        // What ends now kept it in use until now.
        if self.is_busy() {
            self.idle_since = Instant::now();
        }
        if woken.commands
            && let Some(ending) = self.command_ended()?
        {
            return Ok(Some(ending));
        }
        if woken.process {
            return Ok(Some(self.broken()));
        }
        if woken.owner
            && let Some(ending) = self.hear_owner()
        {
            return Ok(Some(ending));
        }
        if woken.door {
            while let Some(socket) = self.door.accept()? {
                self.clients.push(Client {
                    socket,
                    wants: Wants::ToAsk,
                    woken: false,
                });
            }
        }
        // Whoever is heard may want something of the others.
        let woken: Vec<Client> = self.clients.extract_if(.., |it| it.woken).collect();
        for client in woken {
            let stays = self.hear(client)?;
            self.clients.extend(stays);
        }
        Ok(self.time_is_up())
    }

    fn wait(&mut self) -> io::Result<Woken> {
        let timeout = self.next_deadline().map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec::try_from(left + Duration::from_millis(1)).unwrap_or(Timespec {
                tv_sec: i64::MAX,
                tv_nsec: 0,
            })
        });
        let watched = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = vec![watched(self.door.as_fd()), watched(self.commands.as_fd())];
        // A descriptor that is not there is stood in for by one that is looked at anyway.
        for fd in [&self.process, &self.owner] {
            fds.push(watched(fd.as_ref().map_or(self.door.as_fd(), AsFd::as_fd)));
        }
        fds.extend(self.clients.iter().map(|client| watched(client.fd())));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let woken: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut woken = woken.into_iter();
        let mut next = || woken.next().unwrap_or(false);
        let (door, commands, process, owner) = (next(), next(), next(), next());
        for (client, woken) in self.clients.iter_mut().zip(woken) {
            client.woken = woken;
        }
        Ok(Woken {
            door,
            commands,
            process: process && self.process.is_some(),
            owner: owner && self.owner.is_some(),
        })
    }

    /// When something is to be done without anybody asking.
    fn next_deadline(&self) -> Option<Instant> {
        let idle = self.record.plan.idle_timeout.filter(|_| !self.is_busy());
        let idle = idle.and_then(|idle| self.idle_since.checked_add(idle));
        let stop = self.stopping.as_ref().map(|stopping| stopping.at);
        let look = self.looked.checked_add(LOOK);
        let all = [self.ends_at, idle, stop, look];
        all.into_iter().flatten().min()
    }

    fn time_is_up(&mut self) -> Option<Ending> {
        let now = Instant::now();
        if self.is_busy() {
            self.idle_since = now;
        }
        if let Some(stopping) = &self.stopping
            && (stopping.at <= now || !self.runs_commands())
        {
            return Some(stopping.ending.clone());
        }
        if self.ends_at.is_some_and(|at| at <= now) {
            return Some(Ending::MaxDuration);
        }
        if now.duration_since(self.looked) >= LOOK {
            self.looked = now;
            if self.held.was_removed() {
                return Some(self.forgotten());
            }
        }
        let idle = self.record.plan.idle_timeout?;
        (now.duration_since(self.idle_since) >= idle).then_some(Ending::IdleTimeout)
    }

    fn is_busy(&self) -> bool {
        self.commands.is_busy() || self.clients.iter().any(Client::has_session)
    }

    /// Whether a command runs, here or at a client.
    fn runs_commands(&self) -> bool {
        self.commands.is_busy()
            || self.own_is_a_clients()
            || self.clients.iter().any(Client::runs_command)
    }

    pub(super) const fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// Whether the sandbox's own command is run by the one who started the sandbox, who will say how it
    /// ended.
    pub(super) fn own_is_a_clients(&self) -> bool {
        let has_own = self.record.plan.command.is_some();
        has_own && self.owner.is_some() && self.commands.get(OWN).is_err()
    }

    fn command_ended(&mut self) -> io::Result<Option<Ending>> {
        let Self {
            commands, sandbox, ..
        } = self;
        let explain = |number, error| {
            // With it the sandbox ends. The reason is told once, so that another command must not ask for it.
            Some(Problem::from(&match number {
                OWN => sandbox.explained(error),
                _ => ExecError::from(error),
            }))
        };
        let Some(command) = commands.reap(explain)? else {
            return Ok(None);
        };
        let mut event = Event::now(Happening::CommandEnded, &self.record.id, &self.record.name);
        event.command = Some(command.command);
        event.exit_code = command.report.as_ref().map(|report| report.exit_code());
        self.held.entry().registry().note(&event);
        self.clients.retain(|client| {
            let asked = client.wants == Wants::CommandEnd(command.command);
            if asked {
                client.answer(&command_end(&command));
            }
            !asked
        });
        if command.command != OWN || self.record.plan.command.is_none() {
            return Ok(None);
        }
        Ok(Some(match (command.report, command.problem) {
            (Some(report), _) => Ending::Command { report },
            (None, Some(problem)) => Ending::Broken { problem },
            (None, None) => Ending::Killed,
        }))
    }

    /// The owner lets go of the sandbox, or is gone.
    fn hear_owner(&mut self) -> Option<Ending> {
        let owner = self.owner.take()?;
        match packets::receive(&owner, 64) {
            Ok(Some((word, _))) if word == DETACH => None,
            Ok(_) | Err(_) => Some(Ending::OwnerGone),
        }
    }

    pub(super) fn begin_end(&mut self, ending: Ending, grace: Duration) {
        let now = Instant::now();
        let at = now.checked_add(grace).unwrap_or(now);
        // Whoever wants it sooner gets it sooner.
        if self.stopping.as_ref().is_none_or(|begun| at < begun.at) {
            self.stopping = Some(Stopping { ending, at });
        }
    }

    fn broken(&mut self) -> Ending {
        let gone = ClientError::Disconnected("the sandbox ran");
        let error: ExecError = self.sandbox.explained(gone);
        Ending::Broken {
            problem: Problem::from(&error),
        }
    }

    /// Somebody has removed the sandbox's folder: nobody could find it any more, and end it.
    fn forgotten(&self) -> Ending {
        let Record { name, .. } = &self.record;
        let text = format!("the state folder of sandbox {name} was removed while it ran");
        let problem = Problem {
            hint: Some("to end a sandbox and remove it: sovereign rm -f".to_owned()),
            ..Problem::new(ErrorKind::NoSuchSandbox, text)
        };
        Ending::Broken { problem }
    }

    /// Ends the sandbox, and tells everybody when nothing of it is left.
    fn end(self, ending: Ending) {
        let Self {
            held,
            mut record,
            mut sandbox,
            mut commands,
            door,
            console,
            clients,
            owner,
            ..
        } = self;
        if let Some(patience) = patience(&ending).filter(|_| !record.plan.remove) {
            sandbox.settle(patience);
        }
        drop(sandbox);
        // Nobody writes to it any more: what was written is kept.
        drop(console);
        let is_held_here = commands.get(OWN).is_ok();
        // Their sessions have ended, and so do their threads.
        commands.finish(LAST_OUTPUT);
        drop(commands);
        let began = match &record.status {
            Status::Running { since, .. } => *since,
            _ => record.created,
        };
        let mut event = Event::now(Happening::Ended, &record.id, &record.name);
        event.exit_code = Some(ending.exit_code());
        held.entry().registry().note(&event);
        record.status = Status::Ended {
            began,
            at: Timestamp::now(),
            ending: ending.clone(),
        };
        // A record that cannot be written says "running", which nobody believes: the lock is free.
        let _ = held.write_end(&record);
        close(&held);
        if record.plan.remove {
            if let Some(owner) = owner.as_ref().filter(|_| is_held_here) {
                let_read(owner);
            }
            note(&held, &record, Happening::Removed);
            forget_and_remove(held);
        } else {
            drop(held);
        }
        if let Some(owner) = owner {
            let ending = ending.clone();
            // He may be gone, or not want to know.
            let _ = send(&owner, &Outcome::Ended { ending }, None);
        }
        // Whoever still waits at the door finds all this written when it is shut.
        drop(door);
        for client in clients {
            match client.wants {
                Wants::End => client.answer(&Reply::Ended {
                    ending: ending.clone(),
                }),
                Wants::ToAsk | Wants::Session(_) | Wants::Look | Wants::CommandEnd(_) => {}
            }
        }
    }
}

/// Whoever started a sandbox that has ended already may want to read what its command wrote: until he
/// lets go of it, or is gone, it is there.
fn let_read(owner: &OwnedFd) {
    let patience = Timespec::try_from(OWNER_PATIENCE).ok();
    let mut fds = [PollFd::new(owner, PollFlags::IN)];
    // Whatever comes of it, the sandbox is removed.
    let _ = poll(&mut fds, patience.as_ref());
}

/// How long a sandbox with this ending may take to write down what it keeps; `None` if it cannot.
const fn patience(ending: &Ending) -> Option<Duration> {
    match ending {
        Ending::Broken { .. } => None,
        Ending::Killed => Some(SETTLE_KILLED),
        Ending::Command { .. }
        | Ending::Stopped
        | Ending::MaxDuration
        | Ending::IdleTimeout
        | Ending::OwnerGone => Some(SETTLE),
    }
}
