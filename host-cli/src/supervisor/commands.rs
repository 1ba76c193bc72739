//! The commands that a supervisor holds: one thread each, which keeps what they write.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use agent_client::{
    ClientError, Control, ControlReceiver, ControlSender, Exec, InputSource, OutputTarget, PumpIo,
    Taker, control_channel,
};
use agent_protocol::message::{ExitReport, OutputStream, TerminalSize};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::message::{About, Command, no_such_command};
use super::remembered;
use crate::deadline::remaining;
use crate::error::{ErrorKind, Problem};
use crate::registry::Entry;
use crate::registry::output::{self, OutputWriter};
use crate::registry::record::Timestamp;

/// The number of the sandbox's own command.
pub(super) const OWN: u32 = 0;

/// Of commands that have ended, the newest so many are remembered, with what they wrote.
const REMEMBERED: usize = 32;

/// The commands of one sandbox.
#[derive(Debug)]
pub(super) struct Commands {
    entry: Entry,
    all: BTreeMap<u32, Kept>,
    next: u32,
    /// Each thread writes its command's number here when it has ended.
    ended: File,
    ends: OwnedFd,
}

#[derive(Debug)]
struct Kept {
    command: Command,
    /// `None` when it has ended.
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    controls: ControlSender,
    input: Option<OwnedFd>,
    thread: JoinHandle<Result<ExitReport, ClientError>>,
}

/// What a command writes, on its way to its file.
#[derive(Debug)]
struct Stream {
    which: OutputStream,
    writer: Arc<Mutex<OutputWriter>>,
}

/// The pump's ends.
struct Ends {
    input: Option<OwnedFd>,
    controls: ControlReceiver,
    writer: Arc<Mutex<OutputWriter>>,
}

impl Commands {
    /// Those of the sandbox's last life are remembered, except its own command, which runs anew.
    pub(super) fn new(entry: Entry) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let all: BTreeMap<u32, Kept> = remembered::read(&entry.folder())
            .into_iter()
            .filter(|command| command.command != OWN)
            .map(|command| (command.command, Kept::ended(command)))
            .collect();
        let last = all.last_key_value().map_or(OWN, |(number, _)| *number);
        Ok(Self {
            entry,
            all,
            next: last.saturating_add(1),
            ended: read.into(),
            ends: write,
        })
    }

    /// Becomes readable when a command has ended.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// Takes a command that runs. Returns its number.
    pub(super) fn take(&mut self, exec: Exec, about: About) -> io::Result<u32> {
        let number = self.next;
        self.take_as(number, exec, about)?;
        self.next = number.saturating_add(1);
        Ok(number)
    }

    /// Takes the sandbox's own command. Returns its number.
    pub(super) fn take_own(&mut self, exec: Exec, about: About) -> io::Result<u32> {
        self.take_as(OWN, exec, about)?;
        Ok(OWN)
    }

    fn take_as(&mut self, number: u32, exec: Exec, about: About) -> io::Result<()> {
        let path = self.entry.output_path(number);
        output::remove(&path);
        let writer = Arc::new(Mutex::new(OutputWriter::create(&path)?));
        let (controls, receiver) = control_channel()?;
        let (theirs, ours) = if about.stdin {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            (Some(read), Some(write))
        } else {
            (None, None)
        };
        let ends = Ends {
            input: theirs,
            controls: receiver,
            writer,
        };
        let mut bell = File::from(self.ends.try_clone()?);
        let thread = thread::Builder::new()
            .name(format!("command-{number}"))
            .spawn(move || {
                let result = ends.pump(exec);
                // The main thread is the only reader, and outlives this one.
                let _ = bell.write_all(&number.to_le_bytes());
                result
            })?;
        let command = Command {
            command: number,
            about: about.cut(),
            since: Timestamp::now(),
            report: None,
            problem: None,
        };
        self.all.insert(
            number,
            Kept {
                command,
                running: Some(Running {
                    controls,
                    input: ours,
                    thread,
                }),
            },
        );
        self.forget_old();
        self.write_down();
        Ok(())
    }

    /// For those who come when the sandbox has ended.
    fn write_down(&self) {
        let commands: Vec<&Command> = self.all.values().map(|kept| &kept.command).collect();
        // A full disk must not end a command: then its result is not kept, as what it writes is not.
        let _ = remembered::write(&self.entry.folder(), &commands);
    }

    /// What became of a command that has just ended; blocks until one has. Where nobody knows, `explain` is
    /// asked why.
    pub(super) fn reap(
        &mut self,
        explain: impl FnOnce(u32, ClientError) -> Option<Problem>,
    ) -> io::Result<Option<Command>> {
        let mut number = [0; 4];
        self.ended.read_exact(&mut number)?;
        let number = u32::from_le_bytes(number);
        let Some(kept) = self.all.get_mut(&number) else {
            return Ok(None);
        };
        let thread = kept.running.take().map(|running| running.thread);
        match thread.map(JoinHandle::join) {
            Some(Ok(Ok(report))) => kept.command.report = Some(report),
            Some(Ok(Err(error))) => kept.command.problem = explain(number, error),
            Some(Err(_)) | None => {
                let text = "the thread that held the command ended".to_owned();
                kept.command.problem = Some(Problem::new(ErrorKind::Internal, text));
            }
        }
        let command = kept.command.clone();
        self.write_down();
        Ok(Some(command))
    }

    /// Waits for those that still run, whose sandbox is gone: what they wrote last is on its way yet. Nobody
    /// will know how one ended that did not say so itself.
    pub(super) fn finish(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.is_busy() {
            let mut fds = [PollFd::new(&self.ended, PollFlags::IN)];
            let polled = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&remaining(deadline))));
            if !matches!(polled, Ok(1..)) || self.reap(|_, _| None).is_err() {
                return;
            }
        }
    }

    /// Whether one runs.
    pub(super) fn is_busy(&self) -> bool {
        self.all.values().any(|kept| kept.running.is_some())
    }

    /// The commands from this number on, as many as `room` bytes of JSON hold, but one at least; and the
    /// number of the next.
    pub(super) fn list(&self, from: u32, mut room: usize) -> (Vec<Command>, Option<u32>) {
        let mut listed: Vec<Command> = Vec::new();
        for (number, Kept { command, .. }) in self.all.range(from..) {
            // What cannot be told at all cannot be told next time either.
            let size = serde_json::to_vec(command).map_or(0, |text| text.len());
            match room.checked_sub(size) {
                None if !listed.is_empty() => return (listed, Some(*number)),
                left => room = left.unwrap_or(0),
            }
            listed.push(command.clone());
        }
        (listed, None)
    }

    pub(super) fn get(&self, number: u32) -> Result<&Command, Problem> {
        self.kept(number).map(|kept| &kept.command)
    }

    /// The writing end of a command's input.
    pub(super) fn input(&self, number: u32) -> Result<BorrowedFd<'_>, Problem> {
        let running = self.kept(number)?.running.as_ref();
        let input = running.and_then(|running| running.input.as_ref());
        input.map(AsFd::as_fd).ok_or_else(|| {
            Problem::new(
                ErrorKind::NoInput,
                format!("command {number} takes no input"),
            )
        })
    }

    pub(super) fn close_input(&mut self, number: u32) {
        let kept = self.all.get_mut(&number);
        if let Some(running) = kept.and_then(|kept| kept.running.as_mut()) {
            running.input = None;
        }
    }

    pub(super) fn signal(&self, number: u32, signal: u8) -> Result<(), Problem> {
        self.order(number, Control::Signal(signal))
    }

    pub(super) fn resize(&self, number: u32, size: TerminalSize) -> Result<(), Problem> {
        self.order(number, Control::Resize(size))
    }

    /// Sends a signal to every command that runs.
    pub(super) fn signal_all(&self, signal: u8) {
        for running in self.all.values().filter_map(|kept| kept.running.as_ref()) {
            // One that has just ended needs none.
            let _ = running.controls.send(Control::Signal(signal));
        }
    }

    fn order(&self, number: u32, control: Control) -> Result<(), Problem> {
        let ended = || {
            Problem::new(
                ErrorKind::CommandEnded,
                format!("command {number} has ended"),
            )
        };
        let running = self.kept(number)?.running.as_ref().ok_or_else(ended)?;
        running.controls.send(control).map_err(|_| ended())
    }

    fn kept(&self, number: u32) -> Result<&Kept, Problem> {
        self.all.get(&number).ok_or_else(|| no_such_command(number))
    }

    fn forget_old(&mut self) {
        let ended: Vec<u32> = self
            .all
            .iter()
            .filter(|(number, kept)| **number != OWN && kept.running.is_none())
            .map(|(number, _)| *number)
            .collect();
        for number in ended.iter().take(ended.len().saturating_sub(REMEMBERED)) {
            self.all.remove(number);
            output::remove(&self.entry.output_path(*number));
        }
    }
}

impl Kept {
    const fn ended(command: Command) -> Self {
        Self {
            command,
            running: None,
        }
    }
}

impl Ends {
    fn pump(self, exec: Exec) -> Result<ExitReport, ClientError> {
        let stream = |which| Stream {
            which,
            writer: Arc::clone(&self.writer),
        };
        let mut stdout = stream(OutputStream::Stdout);
        let mut stderr = stream(OutputStream::Stderr);
        let report = exec
            .pump(PumpIo {
                stdin: self
                    .input
                    .as_ref()
                    .map_or(InputSource::Empty, |input| InputSource::Fd(input.as_fd())),
                stdout: OutputTarget::Taker(&mut stdout),
                stderr: OutputTarget::Taker(&mut stderr),
                controls: Some(&self.controls),
                ..PumpIo::default()
            })?
            .report;
        // A file that has no end is closed by the sandbox's: whoever reads it looks for both.
        let _ = locked(&self.writer).end(&report);
        Ok(report)
    }
}

impl Taker for Stream {
    fn take(&mut self, data: &[u8]) -> io::Result<()> {
        // A full disk must not end the command: what does not fit is not kept.
        let _ = locked(&self.writer).write(self.which, data);
        Ok(())
    }
}

fn locked(writer: &Mutex<OutputWriter>) -> std::sync::MutexGuard<'_, OutputWriter> {
    // A writer is sound after any of its steps.
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use crate::registry::record::tests::record;

    /// Has a thread end as a command's does, with this result, after this time.
    fn hold(
        commands: &mut Commands,
        number: u32,
        after: Duration,
        result: Result<ExitReport, ClientError>,
    ) {
        let mut bell = File::from(commands.ends.try_clone().unwrap());
        let running = Running {
            controls: control_channel().unwrap().0,
            input: None,
            thread: thread::spawn(move || {
                thread::sleep(after);
                bell.write_all(&number.to_le_bytes()).unwrap();
                result
            }),
        };
        let command = Command {
            command: number,
            about: About::default(),
            since: Timestamp::now(),
            report: None,
            problem: None,
        };
        let running = Some(running);
        commands.all.insert(number, Kept { command, running });
    }

    #[test]
    fn many_commands_are_listed_in_parts() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path().join("state"));
        let (entry, _held) = registry.enter(&record("x")).unwrap();
        let mut commands = Commands::new(entry).unwrap();
        for command in 0..10 {
            let about = About {
                argv: vec!["x".repeat(1000)],
                ..About::default()
            };
            let command = Command {
                command,
                about,
                since: Timestamp::now(),
                report: None,
                problem: None,
            };
            commands.all.insert(command.command, Kept::ended(command));
        }
        let numbers = |(listed, next): (Vec<Command>, _)| {
            let numbers: Vec<u32> = listed.iter().map(|it| it.command).collect();
            (numbers, next)
        };
        assert_eq!(numbers(commands.list(0, 5000)), (vec![0, 1, 2, 3], Some(4)));
        assert_eq!(numbers(commands.list(4, 0)), (vec![4], Some(5)));
        assert_eq!(numbers(commands.list(8, 5000)), (vec![8, 9], None));
        assert_eq!(numbers(commands.list(10, 5000)), (vec![], None));
    }

    #[test]
    fn those_that_run_at_the_end_are_waited_for_and_their_results_kept() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path().join("state"));
        let (entry, _held) = registry.enter(&record("x")).unwrap();
        let mut commands = Commands::new(entry.clone()).unwrap();
        let report = ExitReport {
            code: Some(5),
            signal: None,
            timed_out: false,
            truncated: false,
            duration: Duration::from_secs(1),
        };
        let soon = Duration::from_millis(100);
        hold(&mut commands, 1, soon, Ok(report.clone()));
        hold(
            &mut commands,
            2,
            soon,
            Err(ClientError::Disconnected("it ran")),
        );
        hold(
            &mut commands,
            3,
            Duration::from_secs(60),
            Ok(report.clone()),
        );
        let begun = Instant::now();
        commands.finish(Duration::from_secs(1));
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "it waited for the third"
        );
        let known = remembered::read(&entry.folder());
        assert_eq!(known[0].report, Some(report));
        for command in &known[1..] {
            let problem = command.problem.as_ref().unwrap();
            assert_eq!(problem.code, ErrorKind::SandboxEnded, "{command:?}");
        }
    }
}
