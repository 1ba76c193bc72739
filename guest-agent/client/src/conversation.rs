//! The host's half of a session, as a state machine that does no I/O.
//!
//! ```text
//!  Greeting ──Hello──▶ Starting ──Started──▶ Running ──Exited──▶ Ended
//!                         └───────── Error, Pong ───────────────▶ Ended
//! ```
//!
//! Its owner moves bytes: from [`outgoing`](Conversation::outgoing) to the stream, and from the
//! stream into [`space`](Conversation::space); then it asks for events until there are none.

use agent_protocol::credit::{ReceiveCredit, SendCredit};
use agent_protocol::frame::{FrameError, Kind, MAX_DATA};
use agent_protocol::from_agent::AgentFrame;
use agent_protocol::from_host::{HostFrame, OutputCredit};
use agent_protocol::message::{AgentError, ExitReport, Hello, OutputStream, Request, TerminalSize};
use agent_protocol::reader::FrameReader;
use agent_protocol::writer::FrameWriter;

use crate::error::ClientError;

/// Input is read no further ahead of the stream than this.
const MAX_OUTGOING: usize = 2 * MAX_DATA;

/// One session.
#[derive(Debug)]
pub struct Conversation {
    stage: Stage,
    reader: FrameReader,
    writer: FrameWriter,
    stdin: Option<SendCredit>,
    stdout: ReceiveCredit,
    stderr: ReceiveCredit,
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
}

impl Conversation {
    /// Begins a session: both frames that the host may send at once are outgoing.
    ///
    /// # Errors
    ///
    /// [`ClientError::RequestTooLarge`] if the request does not fit in a frame.
    pub fn new(hello: Hello, request: Request) -> Result<Self, ClientError> {
        let takes_input = matches!(&request, Request::Exec(exec) if exec.stdin);
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
            reader: FrameReader::new(),
            writer,
            stdin: takes_input.then(SendCredit::new),
            stdout: ReceiveCredit::new(),
            stderr: ReceiveCredit::new(),
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
            (Stage::Starting, AgentFrame::Started { pid }) => {
                self.stage = Stage::Running;
                Event::Started { pid }
            }
            (Stage::Starting, AgentFrame::Pong) => {
                self.stage = Stage::Ended;
                Event::Pong
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
            (Stage::Running, AgentFrame::Credit(bytes)) => {
                if let Some(credit) = &mut self.stdin {
                    credit.grant(bytes, kind)?;
                }
                Event::InputWanted
            }
            (Stage::Running, AgentFrame::StdinClosed) => {
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
