//! Moves a command's data between the session and the caller's descriptors, in one thread.
//!
//! ```text
//!  input ──read──▶ Stdin frames ──▶ stream        only while the agent has granted credit
//!  stream ──▶ Stdout, Stderr frames ──write──▶ outputs      credit is given back when written
//!  controls ──▶ Signal, Resize frames ──▶ stream
//!  lease ──▶ Signal frames ──▶ stream
//! ```
//!
//! The stream is always read, whatever else stalls, since no more than a window of each output can
//! come. That bounds the memory, and lets the exit report and the other output pass by.

mod outputs;
mod progress;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use agent_protocol::message::{Hello, OutputStream};
use rustix::event::PollFlags;

use self::outputs::Outputs;
use self::progress::SoFar;
pub use self::progress::{Finished, Moments};
use crate::conversation::{Event, Stage};
use crate::error::ClientError;
use crate::linux::control::{Control, ControlReceiver, Received};
use crate::linux::detach::DetachKeys;
use crate::linux::poll::{ready, time_left};
use crate::linux::session::{Exec, Pumped, Started, TimeLimit};
use crate::linux::sink::{OutputTarget, Progress};
use crate::linux::source::InputSource;
use crate::linux::wait::Lateness;

/// How long after a command's own time limit the agent may take to say that it has ended.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The caller's ends.
#[derive(Debug, Default)]
pub struct PumpIo<'a> {
    /// Where the command's input comes from, if the request has `stdin`.
    pub stdin: InputSource<'a>,
    /// Where its standard output goes, or what its terminal shows.
    pub stdout: OutputTarget<'a>,
    /// Where its standard error goes.
    pub stderr: OutputTarget<'a>,
    /// Where orders come from.
    pub controls: Option<&'a ControlReceiver>,
    /// What is typed to leave the command without ending it; nothing by default.
    pub detach_keys: &'a [u8],
}

/// A session being pumped.
pub(crate) struct Pump<'a> {
    session: Started,
    input: InputSource<'a>,
    outputs: Outputs<'a>,
    controls: Option<&'a ControlReceiver>,
    detach_keys: DetachKeys<'a>,
    progress: SoFar,
    limit: Option<TimeLimit>,
    lateness: Lateness,
    /// Whether the stream still takes what we write.
    open: bool,
    /// Whether the user has typed the keys to leave.
    left: bool,
}

/// What came of a turn.
pub(crate) enum Turn {
    /// There is more to come.
    GoesOn,
    /// The command has ended, and all its output is where it belongs.
    Finished(Finished),
    /// The user has typed the keys to leave.
    Left,
}

/// Why there is no input to pass on now.
enum NoInput {
    HeldBack,
    Left,
    Failed(std::io::Error),
}

/// What there is to do.
#[derive(Debug, Clone, Copy, Default)]
struct Ready {
    stream: bool,
    input: bool,
    stdout: bool,
    stderr: bool,
    controls: bool,
    lease: bool,
}

impl<'a> Pump<'a> {
    /// A pump for a session; with the agent's greeting for one whose command runs already.
    pub(crate) fn new(
        session: Started,
        agent: Option<Hello>,
        limit: Option<TimeLimit>,
        io: PumpIo<'a>,
    ) -> Self {
        Self {
            session,
            input: io.stdin,
            outputs: Outputs::new(io.stdout, io.stderr),
            controls: io.controls,
            detach_keys: DetachKeys::new(io.detach_keys),
            progress: SoFar::new(agent),
            limit,
            lateness: Lateness::default(),
            open: true,
            left: false,
        }
    }

    pub(crate) fn run(mut self) -> Result<Pumped, ClientError> {
        // Another process may have read more than it passed on.
        self.take_events()?;
        loop {
            match self.turn()? {
                Turn::GoesOn => {}
                Turn::Finished(finished) => return Ok(Pumped::Finished(finished)),
                Turn::Left => return Ok(self.detach()),
            }
        }
    }

    /// Waits until there is something to do, and does it; or tells that it is over, once.
    pub(crate) fn turn(&mut self) -> Result<Turn, ClientError> {
        // Input that never waits: as much as is wanted, and its end.
        while self.input.poll_fd().is_none() && self.input_room() > 0 {
            self.read_input()?;
        }
        self.open = self.open && self.session.send_outgoing();
        if let Some(finished) = self.finished() {
            return Ok(Turn::Finished(finished));
        }
        if self.left {
            return Ok(Turn::Left);
        }
        let ready = self.wait()?;
        if ready.stdout {
            self.flush(OutputStream::Stdout)?;
        }
        if ready.stderr {
            self.flush(OutputStream::Stderr)?;
        }
        if ready.stream {
            self.receive()?;
        }
        if ready.input {
            self.read_input()?;
        }
        if ready.controls {
            self.obey()?;
        }
        if ready.lease {
            self.session.heed_lease();
        }
        // Whoever takes these turns may have much to do before the next.
        self.open = self.open && self.session.send_outgoing();
        Ok(Turn::GoesOn)
    }

    /// The result, once the report is there and all output has been written.
    fn finished(&mut self) -> Option<Finished> {
        if self.outputs.is_waiting() {
            return None;
        }
        let mut finished = self.progress.finished()?;
        finished.report.truncated |= self.outputs.have_dropped();
        Some(finished)
    }

    fn wait(&mut self) -> Result<Ready, ClientError> {
        let (deadline, silent) = self.patience();
        let timeout = deadline.map(time_left);
        let ended = self.session.conversation.stage() == Stage::Ended;
        let mut stream_flags = PollFlags::empty();
        if !ended {
            stream_flags |= PollFlags::IN;
            if self.open && !self.session.conversation.outgoing().is_empty() {
                stream_flags |= PollFlags::OUT;
            }
        }
        let input_wanted = self.input_room() > 0;
        let stream = (!ended).then(|| (self.session.stream.as_fd(), stream_flags));
        let input = self
            .input
            .poll_fd()
            .filter(|_| input_wanted)
            .map(|fd| (fd, PollFlags::IN));
        let controls = self
            .controls
            .map(|controls| (controls.as_fd(), PollFlags::IN));
        let stdout = self
            .outputs
            .stdout
            .waiting_fd()
            .map(|fd| (fd, PollFlags::OUT));
        let stderr = self
            .outputs
            .stderr
            .waiting_fd()
            .map(|fd| (fd, PollFlags::OUT));
        let lease = self.session.lease_fd().map(|fd| (fd, PollFlags::IN));
        let wanted = [stream, input, stdout, stderr, controls, lease];
        let [stream, input, stdout, stderr, controls, lease] = ready(wanted, timeout.as_ref())?;
        let ready = Ready {
            stream,
            input,
            stdout,
            stderr,
            controls,
            lease,
        };
        match deadline {
            Some(deadline) if self.lateness.is_too_much(deadline, stream) => Err(silent),
            Some(_) | None => Ok(ready),
        }
    }

    /// Until when there must be something to do, and what it means if there is not.
    fn patience(&mut self) -> (Option<Instant>, ClientError) {
        let (deadline, silent) = self.patience_with_agent();
        match self.limit {
            Some(TimeLimit::Until(until)) if deadline.is_none_or(|deadline| until <= deadline) => {
                (Some(until), ClientError::OutOfTime)
            }
            _ => (deadline, silent),
        }
    }

    /// Until when the agent must say something, and what it means if it does not.
    fn patience_with_agent(&mut self) -> (Option<Instant>, ClientError) {
        let silent = |waiting_for, silence| ClientError::Silent {
            waiting_for,
            silence,
        };
        if self.outputs.is_waiting() {
            self.outputs.stalled = Some(Instant::now());
        }
        let answer = self.session.answer_timeout;
        match (
            self.session.conversation.stage(),
            self.progress.started,
            self.limit,
        ) {
            (Stage::Greeting, ..) => (
                Some(self.session.answer_deadline),
                silent("waiting for its greeting", answer),
            ),
            (Stage::Starting, ..) => (
                Some(self.session.answer_deadline),
                silent("starting the command", answer),
            ),
            (Stage::Running, Some(started), Some(TimeLimit::Run(run_time)))
                if !self.outputs.is_waiting() =>
            {
                let end = started.checked_add(run_time);
                let last =
                    end.map(|end| self.outputs.stalled.map_or(end, |stalled| end.max(stalled)));
                let silence = run_time.saturating_add(REPORT_TIMEOUT);
                (
                    last.and_then(|last| last.checked_add(REPORT_TIMEOUT)),
                    silent("ending a command that is out of time", silence),
                )
            }
            (Stage::Running | Stage::Ended, ..) => {
                (None, silent("running the command", Duration::MAX))
            }
        }
    }

    fn receive(&mut self) -> Result<(), ClientError> {
        let alive = self.session.receive()?;
        self.take_events()?;
        let ended = self.session.conversation.stage() == Stage::Ended;
        if alive || ended {
            return Ok(());
        }
        Err(ClientError::Disconnected(
            match self.session.conversation.stage() {
                Stage::Greeting => "waiting for its greeting",
                Stage::Starting => "starting the command",
                Stage::Running | Stage::Ended => "the command ran",
            },
        ))
    }

    fn take_events(&mut self) -> Result<(), ClientError> {
        loop {
            let (stream, progress) = match self.session.conversation.next_event()? {
                None => return Ok(()),
                Some(Event::Output(stream, data)) => (stream, self.outputs.sink(stream).push(data)),
                Some(event) => {
                    self.progress.note(event)?;
                    continue;
                }
            };
            self.book(stream, progress)?;
        }
    }

    fn flush(&mut self, stream: OutputStream) -> Result<(), ClientError> {
        let progress = self.outputs.sink(stream).flush();
        self.book(stream, progress)
    }

    /// Gives credit back for what an output took; closes it at the agent when its reader is gone.
    fn book(
        &mut self,
        stream: OutputStream,
        progress: std::io::Result<Progress>,
    ) -> Result<(), ClientError> {
        match progress {
            Ok(Progress::Consumed(count)) => self.session.conversation.consumed(stream, count),
            Ok(Progress::Closed) => {
                self.outputs.sink(stream).close();
                self.session.conversation.close_output(stream);
            }
            Err(source) => return Err(ClientError::Output { stream, source }),
        }
        Ok(())
    }

    /// How much input may be read now: there has to be room for keys that were held back before it.
    fn input_room(&self) -> usize {
        let wanted = self.session.conversation.input_wanted();
        wanted.saturating_sub(self.detach_keys.held_back())
    }

    fn read_input(&mut self) -> Result<(), ClientError> {
        if self.input_room() == 0 {
            return Ok(());
        }
        let input = &mut self.input;
        let keys = &mut self.detach_keys;
        let read = self.session.conversation.send_input(|space| {
            let room = space.len().saturating_sub(keys.held_back());
            match input.read(space.get_mut(..room).unwrap_or_default()) {
                Ok(Some(0)) => Ok(0),
                // Nothing to pass on is not the end of the input.
                Ok(Some(count)) => match keys.filter(space, count) {
                    Some(0) => Err(NoInput::HeldBack),
                    Some(count) => Ok(count),
                    None => Err(NoInput::Left),
                },
                Ok(None) => Err(NoInput::HeldBack),
                Err(error) => Err(NoInput::Failed(error)),
            }
        });
        match read {
            Ok(_) | Err(NoInput::HeldBack) => {}
            Err(NoInput::Left) => self.left = true,
            Err(NoInput::Failed(error)) => return Err(ClientError::Input(error)),
        }
        Ok(())
    }

    /// Lets go of the command. What an output did not take in time is not kept for it.
    fn detach(mut self) -> Pumped {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let count = self.outputs.sink(stream).forget();
            self.session.conversation.consumed(stream, count);
        }
        Pumped::Detached(Box::new(Exec::running(
            self.session,
            self.progress.agent,
            self.limit,
        )))
    }

    /// Does what has been ordered.
    fn obey(&mut self) -> Result<(), ClientError> {
        while let Some(controls) = self.controls {
            let received = controls.receive().map_err(|source| ClientError::Io {
                doing: "reading orders for the command",
                source,
            })?;
            match (received, self.session.conversation.stage()) {
                (Received::Nothing, _) => break,
                (Received::Closed, _) => self.controls = None,
                (Received::Order(Control::Cancel), _) => return Err(ClientError::Cancelled),
                (Received::Order(Control::Resize(size)), _) => {
                    self.session.conversation.resize(size);
                }
                (Received::Order(Control::Signal(number)), Stage::Running) => {
                    self.session.conversation.signal(number);
                }
                (Received::Order(Control::Signal(number)), _) => {
                    return Err(ClientError::Interrupted(number));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;
    use crate::linux::session::{Session, SessionOptions};
    use agent_protocol::credit::INITIAL_CREDIT;
    use agent_protocol::from_agent::AgentFrame;
    use agent_protocol::message::{ExecRequest, ExitReport};

    /// A command's session, and the agent's end, which has said that the command runs.
    fn running(request: ExecRequest) -> (UnixStream, Exec) {
        let (mut agent, host) = UnixStream::pair().unwrap();
        let session = Session::new(host, SessionOptions::default());
        let exec = session.exec(request).unwrap();
        say(&mut agent, &AgentFrame::Hello(Hello::new())).unwrap();
        say(&mut agent, &AgentFrame::Started { pid: 7 }).unwrap();
        (agent, exec)
    }

    /// The pump of a session, once that has heard that the command runs.
    fn pump_that_runs(exec: Exec, io: PumpIo<'_>) -> Pump<'_> {
        let mut pump = exec.into_pump(io);
        while pump.progress.started.is_none() {
            pump.turn().unwrap();
        }
        pump
    }

    fn say(agent: &mut UnixStream, frame: &AgentFrame<'_>) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).unwrap();
        agent.write_all(&bytes)
    }

    #[test]
    fn agent_that_always_says_something_gets_no_more_time() {
        let request = ExecRequest {
            stdin: true,
            timeout: Some(Duration::from_millis(1)),
            ..ExecRequest::new(["x"])
        };
        let (mut agent, exec) = running(request);
        let mut pump = pump_that_runs(exec, PumpIo::default());
        // Instead of waiting that long.
        pump.progress.started = Instant::now().checked_sub(REPORT_TIMEOUT * 2);
        thread::spawn(move || while say(&mut agent, &AgentFrame::Credit(0)).is_ok() {});
        let error = (0..10_000).find_map(|_| pump.turn().err());
        assert!(
            matches!(error, Some(ClientError::Silent { .. })),
            "{error:?}"
        );
    }

    #[test]
    fn keys_that_take_all_the_credit_are_not_the_end_of_input() {
        let request = ExecRequest {
            stdin: true,
            ..ExecRequest::new(["x"])
        };
        let (_agent, exec) = running(request);
        let (typed, mut user) = std::io::pipe().unwrap();
        let io = PumpIo {
            stdin: InputSource::Fd(typed.as_fd()),
            detach_keys: b"\x10\x11",
            ..PumpIo::default()
        };
        let mut pump = pump_that_runs(exec, io);
        let conversation = &mut pump.session.conversation;
        let mut left = INITIAL_CREDIT as usize - 1;
        while left > 0 {
            let fill = |space: &mut [u8]| Ok::<_, ()>(space.len().min(left));
            left -= conversation.send_input(fill).unwrap();
            conversation.sent(conversation.outgoing().len());
        }
        assert_eq!(conversation.input_wanted(), 1);
        user.write_all(b"\x10").unwrap();
        pump.read_input().unwrap();
        user.write_all(b"b").unwrap();
        pump.read_input().unwrap();
        assert!(pump.session.conversation.takes_input());
    }

    #[test]
    fn report_that_lies_there_is_taken_late() {
        let request = ExecRequest {
            timeout: Some(Duration::from_millis(1)),
            ..ExecRequest::new(["x"])
        };
        let (mut agent, exec) = running(request);
        let mut pump = pump_that_runs(exec, PumpIo::default());
        pump.progress.started = Instant::now().checked_sub(REPORT_TIMEOUT * 2);
        let report = ExitReport {
            code: Some(0),
            signal: None,
            timed_out: true,
            truncated: false,
            duration: Duration::ZERO,
        };
        say(&mut agent, &AgentFrame::Stdout(b"x")).unwrap();
        say(&mut agent, &AgentFrame::Exited(report)).unwrap();
        pump.run().unwrap();
    }
}
