//! Waits for an answer of the agent, and for nothing else.

use std::os::fd::AsFd;
use std::time::Instant;

use agent_protocol::message::Hello;
use agent_protocol::usage::Usage;
use rustix::event::PollFlags;

use crate::conversation::Event;
use crate::error::ClientError;
use crate::linux::poll::{ready, time_left};
use crate::linux::session::Started;

/// How many reads may follow a deadline: an answer that came in time to a host that was stopped, or had
/// no time to run, is still taken, and whoever always says something more gets no further by that.
const LATE_READS: u32 = 64;

/// A request under way.
pub(crate) struct Wait {
    started: Started,
    lateness: Lateness,
    /// Whether the stream still takes what we write.
    open: bool,
}

impl Wait {
    pub(crate) fn new(started: Started) -> Self {
        Self {
            started,
            lateness: Lateness::default(),
            open: true,
        }
    }

    /// Waits for the agent's greeting and pong.
    pub(crate) fn pong(mut self) -> Result<Hello, ClientError> {
        const WAITING: &str = "waiting for its answer to a ping";
        let mut greeting = None;
        loop {
            while let Some(event) = self.started.conversation.next_event()? {
                match event {
                    Event::Hello(hello) => greeting = Some(hello),
                    Event::Pong => return greeting.ok_or(ClientError::Disconnected(WAITING)),
                    Event::Refused(error) => return Err(ClientError::Refused(error)),
                    // The conversation lets no event of a running command through to here.
                    Event::Started { .. }
                    | Event::Output(..)
                    | Event::InputWanted
                    | Event::StdinClosed
                    | Event::Usage(_)
                    | Event::Exited(_) => {}
                }
            }
            if !self.advance(WAITING)? {
                return Err(ClientError::Disconnected(WAITING));
            }
        }
    }

    /// Waits for what the sandbox uses.
    pub(crate) fn usage(mut self) -> Result<Usage, ClientError> {
        const WAITING: &str = "measuring the sandbox";
        loop {
            while let Some(event) = self.started.conversation.next_event()? {
                match event {
                    Event::Usage(usage) => return Ok(usage),
                    Event::Refused(error) => return Err(ClientError::Refused(error)),
                    // The conversation lets no event of a running command through to here.
                    Event::Hello(_)
                    | Event::Started { .. }
                    | Event::Output(..)
                    | Event::InputWanted
                    | Event::StdinClosed
                    | Event::Pong
                    | Event::Exited(_) => {}
                }
            }
            if !self.advance(WAITING)? {
                return Err(ClientError::Disconnected(WAITING));
            }
        }
    }

    /// Waits until the command runs.
    pub(crate) fn started(mut self) -> Result<(Started, Hello), ClientError> {
        const WAITING: &str = "starting the command";
        // A connection that the guest's kernel refused never greets, unlike most sessions that died.
        const UNGREETED: &str = "starting the command, before the agent's greeting";
        let mut greeting = None;
        loop {
            while let Some(event) = self.started.conversation.next_event()? {
                match event {
                    Event::Hello(hello) => greeting = Some(hello),
                    Event::Started { .. } => {
                        let hello = greeting.ok_or(ClientError::Disconnected(WAITING))?;
                        return Ok((self.started, hello));
                    }
                    Event::Refused(error) => return Err(ClientError::Refused(error)),
                    // The conversation lets none of these through to here.
                    Event::Pong
                    | Event::Usage(_)
                    | Event::Output(..)
                    | Event::InputWanted
                    | Event::StdinClosed
                    | Event::Exited(_) => {}
                }
            }
            if !self.advance(WAITING)? {
                return Err(ClientError::Disconnected(match greeting {
                    None => UNGREETED,
                    Some(_) => WAITING,
                }));
            }
        }
    }

    /// Waits for the stream's end.
    pub(crate) fn end(mut self) -> Result<(), ClientError> {
        loop {
            while let Some(event) = self.started.conversation.next_event()? {
                if let Event::Refused(error) = event {
                    return Err(ClientError::Refused(error));
                }
            }
            if !self.advance("waiting for it to switch off")? {
                return Ok(());
            }
        }
    }

    /// Waits until there is something to do and does it. `false` at the stream's end.
    fn advance(&mut self, waiting_for: &'static str) -> Result<bool, ClientError> {
        let mut flags = PollFlags::IN;
        if self.open && !self.started.conversation.outgoing().is_empty() {
            flags |= PollFlags::OUT;
        }
        let deadline = self.started.answer_deadline;
        let stream = (self.started.stream.as_fd(), flags);
        let [has_come] = ready([Some(stream)], Some(&time_left(deadline)))?;
        if self.lateness.is_too_much(deadline, has_come) {
            return Err(ClientError::Silent {
                waiting_for,
                silence: self.started.answer_timeout,
            });
        }
        self.open = self.started.send_outgoing();
        self.started.receive()
    }
}

/// How far beyond its deadline a wait has gone.
#[derive(Debug, Default)]
pub(crate) struct Lateness {
    reads: u32,
}

impl Lateness {
    /// Whether the wait is over, after a poll that found something to read or did not.
    pub(crate) fn is_too_much(&mut self, deadline: Instant, has_come: bool) -> bool {
        if Instant::now() < deadline {
            self.reads = 0;
            return false;
        }
        self.reads += 1;
        !has_come || self.reads > LATE_READS
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::linux::files::FilesError;
    use crate::linux::session::{Session, SessionOptions};
    use agent_protocol::from_agent::AgentFrame;
    use agent_protocol::message::ExecRequest;

    const SHORT: Duration = Duration::from_millis(100);

    fn session() -> (UnixStream, Session) {
        let (agent, host) = UnixStream::pair().unwrap();
        let options = SessionOptions {
            answer_timeout: SHORT,
            ..SessionOptions::default()
        };
        (agent, Session::new(host, options))
    }

    fn greeting() -> Vec<u8> {
        let mut bytes = Vec::new();
        let hello = AgentFrame::Hello(Hello::new());
        hello.encode(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn agent_that_trickles_gets_no_more_time() {
        let (mut agent, session) = session();
        let (done, ended) = channel();
        thread::spawn(move || done.send(session.ping().unwrap_err()));
        // A frame of 4 KiB, at a byte a millisecond.
        agent.write_all(&greeting()).unwrap();
        agent.write_all(&[0, 0x10, 0, 0, 0x88, 0, 0, 0]).unwrap();
        let mut error = None;
        for _ in 0..4000 {
            error = ended.recv_timeout(Duration::from_millis(1)).ok();
            if error.is_some() {
                break;
            }
            // The host closes its end when it gives up.
            let _ = agent.write_all(b"x");
        }
        assert!(
            matches!(error, Some(ClientError::Silent { .. })),
            "{error:?}"
        );
    }

    #[test]
    fn files_of_a_silent_sandbox_are_given_up_in_time() {
        let (mut agent, host) = UnixStream::pair().unwrap();
        let session = Session::new(host, SessionOptions::default());
        let mut answer = greeting();
        AgentFrame::Started { pid: 7 }.encode(&mut answer).unwrap();
        agent.write_all(&answer).unwrap();
        let files = session.files(None).until(Instant::now() + SHORT);
        let error = files.stat(b"x", false).unwrap_err();
        assert!(
            matches!(error, FilesError::Client(ClientError::OutOfTime)),
            "{error:?}"
        );
    }

    #[test]
    fn files_wait_for_no_greeting_beyond_their_time() {
        let (_agent, host) = UnixStream::pair().unwrap();
        let session = Session::new(host, SessionOptions::default());
        let began = Instant::now();
        let files = session.files(None).until(began + SHORT);
        let error = files.read(b"x", 0, None, &mut Vec::new()).unwrap_err();
        assert!(
            matches!(error, FilesError::Client(ClientError::OutOfTime)),
            "{error:?}"
        );
        assert!(began.elapsed() < SessionOptions::default().answer_timeout);
    }

    #[test]
    fn files_whose_time_is_up_are_not_asked_for() {
        let (mut agent, host) = UnixStream::pair().unwrap();
        let session = Session::new(host, SessionOptions::default());
        let files = session.files(None).until(Instant::now());
        let error = files.remove(b"x", false).unwrap_err();
        assert!(
            matches!(error, FilesError::Client(ClientError::OutOfTime)),
            "{error:?}"
        );
        let mut said = Vec::new();
        agent.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"");
    }

    #[test]
    fn answer_that_lies_there_is_taken_late() {
        let (mut agent, session) = session();
        let exec = session.exec(ExecRequest::new(["x"])).unwrap();
        let mut answer = greeting();
        AgentFrame::Started { pid: 7 }.encode(&mut answer).unwrap();
        agent.write_all(&answer).unwrap();
        thread::sleep(2 * SHORT);
        exec.wait_until_runs().unwrap();
    }
}
