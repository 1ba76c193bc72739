//! The host's half of a session, as a state machine that does no I/O.
//!
//! ```text
//!  Greeting ──Hello──▶ Starting ──Started──▶ Running ──Exited──▶ Ended
//!                         └───────── Error, Pong, Usage ────────▶ Ended
//! ```
//!
//! A request has answers of one kind only: those of another break the protocol, as they would leave
//! whoever waits for theirs waiting for ever.
//!
//! Its owner moves bytes: from [`outgoing`](Conversation::outgoing) to the stream, and from the
//! stream into [`space`](Conversation::space); then it asks for events until there are none.

use agent_protocol::credit::{ReceiveCredit, SendCredit};
use agent_protocol::frame::{FrameError, Kind, MAX_DATA};
use agent_protocol::from_agent::AgentFrame;
use agent_protocol::from_host::{HostFrame, OutputCredit};
use agent_protocol::message::{AgentError, ExitReport, Hello, OutputStream, Request, TerminalSize};
use agent_protocol::reader::FrameReader;
use agent_protocol::usage::Usage;
use agent_protocol::writer::FrameWriter;
use serde::{Deserialize, Serialize};

use crate::error::ClientError;

/// Input is read no further ahead of the stream than this.
const MAX_OUTGOING: usize = 2 * MAX_DATA;

/// One session.
#[derive(Debug)]
pub struct Conversation {
    stage: Stage,
    answer: Answer,
    reader: FrameReader,
    writer: FrameWriter,
    /// Whether the request has input, that may have ended.
    has_input: bool,
    stdin: Option<SendCredit>,
    stdout: ReceiveCredit,
    stderr: ReceiveCredit,
}

/// All that has to be known to go on with a running command's session in another process, which
/// gets the stream as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    stdin: Option<SendCredit>,
    stdout: ReceiveCredit,
    stderr: ReceiveCredit,
    /// What has come from the stream and is no whole frame yet, or was not asked for.
    #[serde(with = "serde_bytes")]
    unread: Vec<u8>,
    /// What the stream has not taken yet.
    #[serde(with = "serde_bytes")]
    unsent: Vec<u8>,
}

/// What a request is answered with, unless it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Started,
    Pong,
    Usage,
    /// The stream's end.
    Nothing,
}

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The agent has not said Hello.
    Greeting,
    /// It has, and it has not answered the request.
    Starting,
    /// The command runs.
    Running,
    /// The last frame has come.
    Ended,
}

/// What the agent has said. Data is borrowed from the conversation's buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Who it is.
    Hello(Hello),
    /// The command runs.
    Started {
        /// Its process number in the sandbox.
        pid: u32,
    },
    /// The command's output. [`Conversation::consumed`] gives its credit back.
    Output(OutputStream, &'a [u8]),
    /// More input may be sent.
    InputWanted,
    /// Nobody reads the command's input any more.
    StdinClosed,
    /// The command has ended, and all its output has come. The last event.
    Exited(ExitReport),
    /// The request could not be served. The last event.
    Refused(AgentError),
    /// The answer to a ping. The last event.
    Pong,
    /// What the sandbox uses. The last event.
    Usage(Usage),
}

impl Conversation {
    /// Begins a session: both frames that the host may send at once are outgoing.
    ///
    /// # Errors
    ///
    /// [`ClientError::RequestTooLarge`] if the request does not fit in a frame.
    pub fn new(hello: Hello, request: Request) -> Result<Self, ClientError> {
        let (answer, has_input) = match &request {
            Request::Exec(exec) => (Answer::Started, exec.stdin),
            Request::Files(files) => (Answer::Started, files.operation.takes_input() || files.lane),
            Request::Ping => (Answer::Pong, false),
            Request::PowerOff => (Answer::Nothing, false),
            Request::Usage => (Answer::Usage, false),
        };
        let mut writer = FrameWriter::new();
        writer.push_host(&HostFrame::Hello(hello))?;
        writer
            .push_host(&HostFrame::Request(Box::new(request)))
            .map_err(|error| match error {
                FrameError::TooLarge { length, limit, .. } => ClientError::RequestTooLarge {
                    size: length,
                    limit,
                },
                other => ClientError::Protocol(other),
            })?;
        Ok(Self {
            stage: Stage::Greeting,
            answer,
            reader: FrameReader::new(),
            writer,
            has_input,
            stdin: has_input.then(SendCredit::new),
            stdout: ReceiveCredit::new(),
            stderr: ReceiveCredit::new(),
        })
    }

    /// What another process needs to go on from here; `None` unless the command runs.
    #[must_use]
    pub fn hand_over(self) -> Option<Handover> {
        (self.stage == Stage::Running).then(|| Handover {
            unread: self.reader.pending().to_vec(),
            unsent: self.writer.pending().to_vec(),
            stdin: self.stdin,
            stdout: self.stdout,
            stderr: self.stderr,
        })
    }

    /// Goes on where another process left off; `None` if it cannot have left off there.
    #[must_use]
    pub fn take_over(handover: Handover) -> Option<Self> {
        let Handover {
            stdin,
            stdout,
            stderr,
            unread,
            unsent,
        } = handover;
        let sound = stdin.as_ref().is_none_or(SendCredit::is_sound)
            && stdout.is_sound()
            && stderr.is_sound();
        let mut writer = FrameWriter::new();
        writer.push_raw(&unsent);
        let mut reader = FrameReader::new();
        reader.preload(&unread);
        sound.then_some(Self {
            stage: Stage::Running,
            answer: Answer::Started,
            reader,
            writer,
            // It may have had some, whose end is on its way to the agent.
            has_input: true,
            stdin,
            stdout,
            stderr,
        })
    }

    /// How far it has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// What is to be written to the stream.
    #[must_use]
    pub fn outgoing(&self) -> &[u8] {
        self.writer.pending()
    }

    /// Says that the first `count` outgoing bytes have been written.
    pub fn sent(&mut self, count: usize) {
        self.writer.sent(count);
    }

    /// Where bytes from the stream belong.
    pub fn space(&mut self) -> &mut [u8] {
        self.reader.space()
    }

    /// Says that the first `count` bytes of [`space`](Self::space) now hold data.
    pub fn filled(&mut self, count: usize) {
        self.reader.filled(count);
    }

    /// What the agent has said next; `None` until more bytes have come.
    ///
    /// # Errors
    ///
    /// [`FrameError`] if the agent broke the protocol. The session is of no more use.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, FrameError> {
        let Some((kind, payload)) = self.reader.next_frame()? else {
            return Ok(None);
        };
        let frame = AgentFrame::decode(kind, payload)?;
        let unexpected = Err(FrameError::Unexpected(kind));
        let event = match (self.stage, frame) {
            (Stage::Greeting, AgentFrame::Hello(hello)) => {
                self.stage = Stage::Starting;
                Event::Hello(hello)
            }
            (Stage::Starting, AgentFrame::Started { pid }) if self.answer == Answer::Started => {
                self.stage = Stage::Running;
                Event::Started { pid }
            }
            (Stage::Starting, AgentFrame::Pong) if self.answer == Answer::Pong => {
                self.stage = Stage::Ended;
                Event::Pong
            }
            (Stage::Starting, AgentFrame::Usage(usage)) if self.answer == Answer::Usage => {
                self.stage = Stage::Ended;
                Event::Usage(usage)
            }
            (Stage::Starting | Stage::Running, AgentFrame::Error(error)) => {
                self.stage = Stage::Ended;
                Event::Refused(error)
            }
            (Stage::Running, AgentFrame::Exited(report)) => {
                self.stage = Stage::Ended;
                Event::Exited(report)
            }
            (Stage::Running, AgentFrame::Stdout(data)) => {
                self.stdout.receive(data.len(), kind)?;
                Event::Output(OutputStream::Stdout, data)
            }
            (Stage::Running, AgentFrame::Stderr(data)) => {
                self.stderr.receive(data.len(), kind)?;
                Event::Output(OutputStream::Stderr, data)
            }
            (Stage::Running, AgentFrame::Credit(bytes)) if self.has_input => {
                if let Some(credit) = &mut self.stdin {
                    credit.grant(bytes, kind)?;
                }
                Event::InputWanted
            }
            (Stage::Running, AgentFrame::StdinClosed) if self.has_input => {
                self.stdin = None;
                Event::StdinClosed
            }
            (Stage::Greeting | Stage::Starting | Stage::Running | Stage::Ended, _) => {
                return unexpected;
            }
        };
        Ok(Some(event))
    }

    /// How many bytes of input may be read and sent now. Nothing is wanted before the command runs,
    /// so that a command that cannot be run costs its caller no input.
    #[must_use]
    pub fn input_wanted(&self) -> usize {
        match (&self.stdin, self.stage) {
            (Some(credit), Stage::Running) if self.outgoing().len() < MAX_OUTGOING => {
                credit.available().min(MAX_DATA)
            }
            _ => 0,
        }
    }

    /// Whether input may still be sent, now or later.
    #[must_use]
    pub fn takes_input(&self) -> bool {
        self.stdin.is_some() && self.stage != Stage::Ended
    }

    /// Sends input that `fill` writes in place, at most [`input_wanted`](Self::input_wanted) bytes.
    /// When `fill` returns 0, that is the end of the input.
    ///
    /// # Errors
    ///
    /// What `fill` returned.
    pub fn send_input<E>(
        &mut self,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let wanted = self.input_wanted();
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.writer.push_data(Kind::Stdin, wanted, fill)?;
        match &mut self.stdin {
            Some(credit) if count > 0 => credit.spend(count),
            Some(_) | None => self.end_input(),
        }
        Ok(count)
    }

    /// Tells the command that its input has ended. Once; later calls do nothing.
    pub fn end_input(&mut self) {
        if self.stdin.take().is_some() {
            self.push(&HostFrame::StdinEof);
        }
    }

    /// Says that output has gone where it belongs, so that more may come.
    pub fn consumed(&mut self, stream: OutputStream, bytes: usize) {
        let credit = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        if let Some(bytes) = credit.consume(bytes) {
            self.push(&HostFrame::Credit(OutputCredit { stream, bytes }));
        }
    }

    /// Closes an output that nobody reads any more.
    pub fn close_output(&mut self, stream: OutputStream) {
        self.push(&HostFrame::CloseOutput(stream));
    }

    /// Sends a signal to the command.
    pub fn signal(&mut self, number: u8) {
        self.push(&HostFrame::Signal(number));
    }

    /// Resizes the command's terminal.
    pub fn resize(&mut self, size: TerminalSize) {
        self.push(&HostFrame::Resize(size));
    }

    /// Adds a small frame. They cannot be too large, and after the end they have no reader.
    fn push(&mut self, frame: &HostFrame<'_>) {
        if self.stage != Stage::Ended {
            let encoded = self.writer.push_host(frame);
            debug_assert!(encoded.is_ok(), "{frame:?} does not fit in a frame");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::credit::INITIAL_CREDIT;
    use agent_protocol::message::ExecRequest;
    use agent_protocol::usage::CountedBy;
    use proptest::prelude::*;

    fn conversation(stdin: bool) -> Conversation {
        let request = ExecRequest {
            stdin,
            ..ExecRequest::new(["x"])
        };
        let mut conversation = Conversation::new(Hello::new(), Request::Exec(request)).unwrap();
        let greeting = conversation.outgoing().len();
        conversation.sent(greeting);
        conversation
    }

    fn hear(conversation: &mut Conversation, frame: &AgentFrame<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).unwrap();
        for piece in bytes.chunks(1000) {
            conversation.space()[..piece.len()].copy_from_slice(piece);
            conversation.filled(piece.len());
        }
    }

    fn running(stdin: bool) -> Conversation {
        let mut conversation = conversation(stdin);
        hear(&mut conversation, &AgentFrame::Hello(Hello::new()));
        hear(&mut conversation, &AgentFrame::Started { pid: 7 });
        assert!(matches!(
            conversation.next_event(),
            Ok(Some(Event::Hello(_)))
        ));
        assert_eq!(
            conversation.next_event(),
            Ok(Some(Event::Started { pid: 7 }))
        );
        assert_eq!(conversation.stage(), Stage::Running);
        conversation
    }

    fn said(conversation: &mut Conversation) -> Vec<u8> {
        let bytes = conversation.outgoing().to_vec();
        conversation.sent(bytes.len());
        bytes
    }

    #[test]
    fn a_session_goes_on_elsewhere() {
        let mut here = running(true);
        here.send_input(|space| Ok::<_, ()>(space.len())).unwrap();
        let wanted = here.outgoing().to_vec();
        let mut frames = Vec::new();
        AgentFrame::Stdout(b"one").encode(&mut frames).unwrap();
        AgentFrame::Stdout(b"two").encode(&mut frames).unwrap();
        let (now, later) = frames.split_at(frames.len() - 2);
        here.space()[..now.len()].copy_from_slice(now);
        here.filled(now.len());
        assert!(matches!(
            here.next_event(),
            Ok(Some(Event::Output(_, b"one")))
        ));

        let mut there = Conversation::take_over(here.hand_over().unwrap()).unwrap();
        assert_eq!(there.outgoing(), wanted);
        there.space()[..2].copy_from_slice(later);
        there.filled(2);
        assert!(matches!(
            there.next_event(),
            Ok(Some(Event::Output(_, b"two")))
        ));
        assert_eq!(there.stage(), Stage::Running);
    }

    #[test]
    fn what_no_session_can_be_is_not_taken_over() {
        let sound = running(false).hand_over().unwrap();
        let mut credit = ReceiveCredit::new();
        credit
            .receive(INITIAL_CREDIT as usize, Kind::Stdout)
            .unwrap();
        assert!(credit.is_sound());
        let unsound: ReceiveCredit =
            postcard::from_bytes(&[0xff, 0xff, 0xff, 0xff, 15, 1]).unwrap();
        assert!(!unsound.is_sound());
        let handover = Handover {
            stdout: unsound,
            ..sound
        };
        assert!(Conversation::take_over(handover).is_none());
        assert!(conversation(false).hand_over().is_none());
    }

    #[test]
    fn no_input_is_wanted_before_the_command_runs() {
        let mut early = conversation(true);
        assert_eq!(early.input_wanted(), 0);
        hear(&mut early, &AgentFrame::Hello(Hello::new()));
        early.next_event().unwrap();
        assert_eq!(early.input_wanted(), 0);
        assert_eq!(running(true).input_wanted(), MAX_DATA);
        assert_eq!(running(false).input_wanted(), 0);
    }

    #[test]
    fn input_stops_when_the_credit_is_spent() {
        let mut conversation = running(true);
        let mut sent = 0;
        while conversation.input_wanted() > 0 {
            sent += conversation
                .send_input(|space| Ok::<_, ()>(space.len()))
                .unwrap();
            said(&mut conversation);
        }
        assert_eq!(sent, INITIAL_CREDIT as usize);
        hear(&mut conversation, &AgentFrame::Credit(5));
        assert_eq!(conversation.next_event(), Ok(Some(Event::InputWanted)));
        assert_eq!(conversation.input_wanted(), 5);
    }

    #[test]
    fn end_of_input_is_said_once() {
        let mut conversation = running(true);
        conversation.send_input(|_| Ok::<_, ()>(0)).unwrap();
        assert_eq!(said(&mut conversation), [0, 0, 0, 0, 4, 0, 0, 0]);
        conversation.end_input();
        assert_eq!(said(&mut conversation), []);
        assert!(!conversation.takes_input());
    }

    #[test]
    fn input_is_over_when_nobody_reads_it() {
        let mut conversation = running(true);
        hear(&mut conversation, &AgentFrame::StdinClosed);
        assert_eq!(conversation.next_event(), Ok(Some(Event::StdinClosed)));
        assert_eq!(
            (conversation.input_wanted(), conversation.takes_input()),
            (0, false)
        );
    }

    #[test]
    fn output_beyond_the_window_is_a_violation() {
        let mut conversation = running(false);
        let chunk = vec![0; MAX_DATA];
        let mut result = Ok(());
        for _ in 0..6 {
            hear(&mut conversation, &AgentFrame::Stderr(&chunk));
            result = result.and(conversation.next_event().map(|_| ()));
        }
        assert_eq!(result, Err(FrameError::CreditExceeded(Kind::Stderr)));
    }

    #[test]
    fn frames_out_of_their_time_are_violations() {
        let mut early = conversation(false);
        hear(&mut early, &AgentFrame::Pong);
        assert_eq!(early.next_event(), Err(FrameError::Unexpected(Kind::Pong)));
        let mut late = running(false);
        hear(
            &mut late,
            &AgentFrame::Error(AgentError::NotFound("x".to_owned())),
        );
        hear(&mut late, &AgentFrame::Stdout(b"x"));
        assert!(matches!(late.next_event(), Ok(Some(Event::Refused(_)))));
        assert_eq!(late.next_event(), Err(FrameError::Unexpected(Kind::Stdout)));
        let mut twice = running(false);
        hear(&mut twice, &AgentFrame::Hello(Hello::new()));
        assert_eq!(
            twice.next_event(),
            Err(FrameError::Unexpected(Kind::AgentHello))
        );
    }

    #[test]
    fn answers_to_what_was_not_asked_are_violations() {
        let answers = [
            AgentFrame::Started { pid: 7 },
            AgentFrame::Pong,
            AgentFrame::Usage(Usage {
                counted_by: CountedBy::Kernel,
                cpu: None,
                memory_bytes: None,
                memory_limit_bytes: None,
                read_bytes: None,
                written_bytes: None,
                processes: 1,
            }),
        ];
        let exec = || Request::Exec(ExecRequest::new(["x"]));
        let requests = [
            (exec(), Some(Kind::Started)),
            (Request::Ping, Some(Kind::Pong)),
            (Request::Usage, Some(Kind::Usage)),
            (Request::PowerOff, None),
        ];
        for (request, right) in requests {
            for answer in &answers {
                let mut conversation = Conversation::new(Hello::new(), request.clone()).unwrap();
                hear(&mut conversation, &AgentFrame::Hello(Hello::new()));
                hear(&mut conversation, answer);
                conversation.next_event().unwrap();
                let event = conversation.next_event().map(drop);
                if right == Some(answer.kind()) {
                    assert_eq!(event, Ok(()), "{request:?} {answer:?}");
                } else {
                    let unexpected = Err(FrameError::Unexpected(answer.kind()));
                    assert_eq!(event, unexpected, "{request:?} {answer:?}");
                }
            }
        }
    }

    #[test]
    fn news_of_input_that_there_is_not_are_violations() {
        for frame in [AgentFrame::Credit(1), AgentFrame::StdinClosed] {
            let mut without = running(false);
            hear(&mut without, &frame);
            let unexpected = Err(FrameError::Unexpected(frame.kind()));
            assert_eq!(without.next_event().map(drop), unexpected);
            let mut ended = running(true);
            ended.end_input();
            hear(&mut ended, &frame);
            assert_eq!(
                ended.next_event().map(drop),
                Ok(()),
                "on its way when it ended"
            );
        }
    }

    #[test]
    fn nothing_is_said_after_the_end() {
        let mut conversation = running(true);
        hear(
            &mut conversation,
            &AgentFrame::Error(AgentError::NotFound("x".to_owned())),
        );
        conversation.next_event().unwrap();
        conversation.signal(9);
        conversation.consumed(OutputStream::Stdout, 1);
        conversation.close_output(OutputStream::Stderr);
        assert_eq!(said(&mut conversation), []);
    }

    proptest! {
        #[test]
        fn arbitrary_agents_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut conversation = running(true);
            for piece in bytes.chunks(100) {
                conversation.space()[..piece.len()].copy_from_slice(piece);
                conversation.filled(piece.len());
                while let Ok(Some(_)) = conversation.next_event() {}
            }
        }
    }
}
