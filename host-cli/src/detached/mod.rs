//! A sandbox that outlives the program that started it, as its users see it.

mod conversation;
mod end;
mod error;
mod silent;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agent_client::{Exec, Files, Session, SessionOptions};
use agent_protocol::message::{ExecRequest, ExitReport, TerminalSize};
use agent_protocol::usage::Usage;

pub use self::error::DetachedError;
use crate::deadline::is_readable;
use crate::host::memory_mib;
use crate::registry::events::{Event, Happening};
use crate::registry::output::OutputReader;
use crate::registry::record::{Ending, Plan, Record, Status};
use crate::registry::{Entry, Name, Registry, RegistryError, State};
use crate::supervisor::launch::{Owned, launch};
use crate::supervisor::message::{Purpose, Reply, Request, encode, no_such_command};
use crate::supervisor::remembered;
use crate::supervisor::{About, Command, OwnCommand};
use crate::usage::{self, Stats};

/// How long a sandbox may take to say what it uses.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// A sandbox of the registry. It is not ended when this is dropped.
#[derive(Debug, Clone)]
pub struct Detached {
    entry: Entry,
}

/// A sandbox that was started for somebody, and ends with this value.
#[derive(Debug)]
pub struct Attached {
    detached: Detached,
    owned: Owned,
}

impl Detached {
    /// Enters a new sandbox in the registry, and does not start it. Without a name it gets one.
    ///
    /// # Errors
    ///
    /// If its name is taken, no sandbox can be like this, or it cannot be written.
    pub fn create(
        registry: &Registry,
        name: Option<Name>,
        plan: Plan,
    ) -> Result<Self, DetachedError> {
        plan.spec.check(memory_mib())?;
        let is_named = name.is_some();
        let mut attempts = 10;
        loop {
            let id = registry.new_id()?;
            let name = name.clone().unwrap_or_else(|| Name::invented(&id));
            let record = Record::new(id, name, plan.clone());
            match registry.enter(&record) {
                Ok((entry, held)) => {
                    let event = Event::now(Happening::Created, &record.id, &record.name);
                    registry.note(&event);
                    drop(held);
                    return Ok(Self { entry });
                }
                Err(RegistryError::NameTaken { .. }) if !is_named && attempts > 0 => attempts -= 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Finds a sandbox by its name, its id, or the beginning of its id.
    ///
    /// # Errors
    ///
    /// If there is none, or more than one.
    pub fn find(registry: &Registry, wanted: &str) -> Result<Self, DetachedError> {
        Ok(Self {
            entry: registry.find(wanted)?,
        })
    }

    /// What is known of it on disk.
    #[must_use]
    pub const fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Starts it. It is ended if the result is dropped before it is
    /// [let go](Attached::let_go).
    ///
    /// # Errors
    ///
    /// If it runs, or does not start.
    pub fn start(
        &self,
        own: OwnCommand,
        cancel: Option<BorrowedFd>,
    ) -> Result<Attached, DetachedError> {
        let record = self.entry.read()?;
        if matches!(self.entry.state(&record), State::Running | State::Starting) {
            return Err(DetachedError::Running { name: record.name });
        }
        let owned = launch(&self.entry, record.plan.spec.boot_timeout, own, cancel)?;
        Ok(Attached {
            detached: self.clone(),
            owned,
        })
    }

    /// Lets whoever gave consent to the local tier after all have it.
    ///
    /// # Errors
    ///
    /// If somebody holds it, or it cannot be written.
    pub fn allow_local(&self) -> Result<(), DetachedError> {
        let held = self.entry.hold()?;
        let mut record = self.entry.read()?;
        record.plan.policy.allow_local = true;
        record.status = Status::Created;
        Ok(held.write(&record)?)
    }

    /// Asks for a command to be run, without waiting for anything. It ends when the result is
    /// dropped; [`hold`](Self::hold) lets it go on.
    ///
    /// # Errors
    ///
    /// If the sandbox does not run, the request is too large, or its tier cannot honour it.
    pub fn exec(&self, request: ExecRequest) -> Result<Exec, DetachedError> {
        self.run(request, Purpose::Command)
    }

    fn run(&self, request: ExecRequest, purpose: Purpose) -> Result<Exec, DetachedError> {
        let may_be_refused = request.processes.is_some() || request.user.is_some();
        if may_be_refused
            && let Some(place) = self.entry.read()?.place
            && let Some(refusal) = place.tier.refuses(&request)
        {
            return Err(refusal.into());
        }
        Ok(self.session(purpose)?.exec(request)?)
    }

    /// A session for one thing to do with files, with the rights of this user; with those that
    /// commands have, without one.
    ///
    /// # Errors
    ///
    /// If the sandbox does not run.
    pub fn files(&self, user: Option<String>) -> Result<Files, DetachedError> {
        self.files_until(user, None)
    }

    /// The same, given up then, if ever ([`Files::until`]); and so is reaching the sandbox, as
    /// `out-of-time`.
    ///
    /// # Errors
    ///
    /// If the sandbox does not run, or there is no more time.
    pub fn files_until(
        &self,
        user: Option<String>,
        until: Option<Instant>,
    ) -> Result<Files, DetachedError> {
        let place = self.entry.read()?.place;
        let has_lanes = place.is_some_and(|place| place.tier.has_lanes());
        let session = self.session_until(Purpose::Other, until)?;
        let files = session.with_lanes(has_lanes).files(user);
        Ok(match until {
            Some(until) => files.until(until),
            None => files,
        })
    }

    /// What it uses, as it sees it itself and as this machine does. It is not in use by being asked.
    ///
    /// # Errors
    ///
    /// If it does not run. What cannot be measured is left out.
    pub fn stats(&self) -> Result<Stats, DetachedError> {
        let record = self.entry.read()?;
        let state = self.entry.state(&record);
        let (Status::Running { process, .. }, State::Running) = (&record.status, state) else {
            return Err(DetachedError::NotRunning {
                name: record.name,
                state,
            });
        };
        let place = record.place.as_ref();
        Ok(Stats {
            inside: self.usage().ok(),
            host: place.and_then(|place| usage::on_this_machine(place.tier, *process)),
        })
    }

    /// What it uses, as it sees it itself.
    fn usage(&self) -> Result<Usage, DetachedError> {
        Ok(self.looking(LOOK_TIMEOUT)?.usage()?)
    }

    /// As [`files`](Self::files), for somebody who only looks: the sandbox is not in use by that. It has
    /// to begin an answer in this time.
    ///
    /// # Errors
    ///
    /// If the sandbox does not run.
    pub fn look_at_files(
        &self,
        user: Option<String>,
        patience: Duration,
    ) -> Result<Files, DetachedError> {
        Ok(self.looking(patience)?.files(user))
    }

    /// A session for somebody who only looks.
    fn looking(&self, patience: Duration) -> Result<Session, DetachedError> {
        let (reply, descriptor, lease) = self.ask(Request::Look, None)?;
        let stream = self.expect_descriptor(reply, descriptor)?;
        let options = SessionOptions {
            answer_timeout: patience,
            ..SessionOptions::default()
        };
        Ok(Session::new(stream, options).with_lease(lease))
    }

    /// A session, which the sandbox counts as somebody's use of it.
    fn session(&self, purpose: Purpose) -> Result<Session, DetachedError> {
        self.session_until(purpose, None)
    }

    fn session_until(
        &self,
        purpose: Purpose,
        until: Option<Instant>,
    ) -> Result<Session, DetachedError> {
        let request = Request::Connect { purpose };
        let (reply, descriptor, lease) = self.ask_until(request, None, until)?;
        let stream = self.expect_descriptor(reply, descriptor)?;
        Ok(Session::new(stream, SessionOptions::default()).with_lease(lease))
    }

    /// Has the supervisor go on with a command. Returns the command's number. It waits until the
    /// command runs.
    ///
    /// # Errors
    ///
    /// If the command cannot be run, or the sandbox has ended.
    pub fn hold(&self, exec: Exec, about: About) -> Result<u32, DetachedError> {
        self.hand_over(exec, about, false)
    }

    /// Has the supervisor go on with the sandbox's own command, which the caller has run so far.
    ///
    /// # Errors
    ///
    /// As [`hold`](Self::hold).
    pub fn hold_own(&self, exec: Exec, about: About) -> Result<u32, DetachedError> {
        self.hand_over(exec, about, true)
    }

    fn hand_over(&self, exec: Exec, about: About, own: bool) -> Result<u32, DetachedError> {
        let exec = exec.wait_until_runs()?;
        let (stream, handover) = exec.hand_over()?;
        let handover = encode(&handover).map_err(|source| self.lost(source))?;
        let request = Request::TakeOver {
            about,
            handover,
            own,
        };
        match self.ask(request, Some(stream.as_fd()))?.0 {
            Reply::Taken { command } => Ok(command),
            reply => Err(self.unexpected(reply)),
        }
    }

    /// The commands that the supervisor holds or remembers; of a sandbox that does not run, those of its
    /// last life and before, as they ended.
    ///
    /// # Errors
    ///
    /// If the supervisor cannot be asked.
    pub fn commands(&self) -> Result<Vec<Command>, DetachedError> {
        let mut all = Vec::new();
        let mut from = 0;
        loop {
            match self.ask(Request::Commands { from }, None) {
                Ok((Reply::Commands { mut commands, next }, ..)) => {
                    all.append(&mut commands);
                    match next {
                        Some(next) if next > from => from = next,
                        _ => return Ok(all),
                    }
                }
                Ok((reply, ..)) => return Err(self.unexpected(reply)),
                Err(DetachedError::NotRunning { .. }) => {
                    return Ok(remembered::read(&self.entry.folder()));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What a command that the supervisor holds has written so far; its newest 8 to 16 MiB. What is
    /// there comes piece by piece, and what comes later can be asked for later.
    ///
    /// # Errors
    ///
    /// If there is no such command, or what it wrote cannot be read.
    pub fn output(&self, command: u32) -> Result<OutputReader, DetachedError> {
        Ok(self.entry.output(command)?)
    }

    /// The writing end of a command's standard input.
    ///
    /// # Errors
    ///
    /// If it takes no input.
    pub fn input(&self, command: u32) -> Result<OwnedFd, DetachedError> {
        let (reply, descriptor, _) = self.ask(Request::Input { command }, None)?;
        self.expect_descriptor(reply, descriptor)
    }

    /// Lets a command read the end of its input, once all who write to it are gone.
    ///
    /// # Errors
    ///
    /// If the sandbox does not run.
    pub fn close_input(&self, command: u32) -> Result<(), DetachedError> {
        self.done(Request::CloseInput { command })
    }

    /// Sends a signal to a command; without one, to the sandbox's own, or to all that runs in one that has
    /// none.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn signal(&self, command: Option<u32>, number: u8) -> Result<(), DetachedError> {
        self.done(Request::Signal { command, number })
    }

    /// Tells a command that its terminal has another size.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn resize(&self, command: u32, size: TerminalSize) -> Result<(), DetachedError> {
        self.done(Request::Resize { command, size })
    }

    /// Waits until the sandbox has ended, and says how. While it waits, `cancel` may become readable.
    ///
    /// # Errors
    ///
    /// If the caller gave up, or it never ran.
    pub fn wait(&self, cancel: Option<BorrowedFd>) -> Result<Ending, DetachedError> {
        self.wait_for(cancel, None)
    }

    fn wait_for(
        &self,
        cancel: Option<BorrowedFd>,
        patience: Option<Duration>,
    ) -> Result<Ending, DetachedError> {
        let socket = match self.knock(Request::Wait, None, None) {
            Ok(socket) => socket,
            Err(DetachedError::NotRunning { .. }) => return self.ending(),
            Err(error) => return Err(error),
        };
        self.end_by(socket, cancel, patience)
    }

    /// Waits until a command has ended. How one ended can be asked after its sandbox has, too.
    ///
    /// # Errors
    ///
    /// If the caller gave up, or nobody knows how it ended.
    pub fn wait_command(
        &self,
        command: u32,
        cancel: Option<BorrowedFd>,
    ) -> Result<ExitReport, DetachedError> {
        let socket = match self.knock(Request::WaitCommand { command }, None, None) {
            Ok(socket) => socket,
            Err(DetachedError::NotRunning { .. }) => return self.remembered(command),
            Err(error) => return Err(error),
        };
        if !is_readable(&socket, cancel, None).map_err(|source| self.lost(source))? {
            return Err(DetachedError::Interrupted);
        }
        match self.hear(&socket, None) {
            Ok((Reply::CommandEnded { report }, _)) => Ok(report),
            Ok((reply, _)) => Err(self.unexpected(reply)),
            // It ended with the sandbox, and its result may have been written down.
            Err(DetachedError::NotRunning { .. }) => self.remembered(command),
            Err(error) => Err(error),
        }
    }

    /// How a command ended of a sandbox that does not run.
    fn remembered(&self, number: u32) -> Result<ExitReport, DetachedError> {
        let mut commands = remembered::read(&self.entry.folder()).into_iter();
        let known = commands.find(|command| command.command == number);
        let no_such = || DetachedError::Refused(no_such_command(number));
        let Command {
            report, problem, ..
        } = known.ok_or_else(no_such)?;
        report.ok_or_else(|| problem.map_or_else(no_such, DetachedError::Refused))
    }

    /// Gives it another name.
    ///
    /// # Errors
    ///
    /// If another one has it.
    pub fn rename(&self, name: Name) -> Result<(), DetachedError> {
        match self.done(Request::Rename { name: name.clone() }) {
            Err(DetachedError::NotRunning { .. }) => {}
            outcome => return outcome,
        }
        let held = self.entry.hold()?;
        let mut record = self.entry.read()?;
        held.rename(&mut record, name)?;
        let event = Event::now(Happening::Renamed, &record.id, &record.name);
        self.entry.registry().note(&event);
        Ok(())
    }
}

impl From<Entry> for Detached {
    fn from(entry: Entry) -> Self {
        Self { entry }
    }
}

impl Attached {
    /// The sandbox.
    #[must_use]
    pub const fn sandbox(&self) -> &Detached {
        &self.detached
    }

    /// Asks for the sandbox's own command to be run by the caller, who has to tell the supervisor by
    /// [`Detached::finish`] how it ended: see [`OwnCommand::Clients`]. Signals for the sandbox go to it.
    ///
    /// # Errors
    ///
    /// As [`Detached::exec`].
    pub fn exec_own(&self, request: ExecRequest) -> Result<Exec, DetachedError> {
        self.detached.run(request, Purpose::OwnCommand)
    }

    /// Lets go of it: it outlives this process.
    #[expect(
        clippy::must_use_candidate,
        reason = "letting go is what it is called for"
    )]
    pub fn let_go(self) -> Detached {
        self.owned.let_go();
        self.detached
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::tier::place::Place;
    use crate::tier::{Isolation, Tier};

    #[test]
    fn what_its_tier_cannot_honour_is_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        let registry = Registry::open(root.path());
        let sandbox = Detached::create(&registry, None, Plan::default()).unwrap();
        let mut record = sandbox.entry.read().unwrap();
        record.place = Some(Place {
            tier: Tier::Docker,
            isolation: Isolation::Container,
            shortfall: None,
            passed_over: Vec::new(),
        });
        sandbox.entry.hold().unwrap().write(&record).unwrap();
        let code = |change: fn(&mut ExecRequest)| {
            let mut request = ExecRequest::new(["true"]);
            change(&mut request);
            sandbox.exec(request).unwrap_err().kind()
        };
        let refused = ErrorKind::UnsupportedFlag;
        assert_eq!(code(|it| it.user = Some("root".to_owned())), refused);
        assert_eq!(code(|it| it.processes = Some(9)), refused);
        // One that its tier can honour meets what comes next.
        let rest = ErrorKind::NotRunning;
        assert_eq!(code(|it| it.user = Some("1000".to_owned())), rest);
    }
}
