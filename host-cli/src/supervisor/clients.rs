//! Those who come to the door, and what they ask for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use agent_client::Exec;
use rustix::net::SendFlags;

use super::commands::OWN;
use super::message::{
    About, Asked, MAX_MESSAGE, OtherVersion, Purpose, Reply, Request, VERSION, decode, receive,
    send,
};
use super::note;
use super::serve::Supervisor;
use crate::error::{ErrorKind, Problem};
use crate::registry::events::{Event, Happening};
use crate::registry::record::Ending;

const SIGTERM: u8 = 15;

/// How long a message about commands may be, without what stands around it.
const LISTED: usize = MAX_MESSAGE / 2;

/// Somebody at the door.
pub(super) struct Client {
    pub(super) socket: OwnedFd,
    pub(super) wants: Wants,
    /// Whether it has said something, or is gone.
    pub(super) woken: bool,
}

/// What a client is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// It has not said yet.
    ToAsk,
    /// A session is open for as long as it is there.
    Session(Purpose),
    /// A session that keeps nobody from being idle is open for as long as it is there.
    Look,
    /// To hear of the sandbox's end.
    End,
    /// To hear of a command's end.
    CommandEnd(u32),
}

impl Supervisor {
    /// Hears a client. Returns it if it stays.
    pub(super) fn hear(&mut self, mut client: Client) -> io::Result<Option<Client>> {
        if client.wants != Wants::ToAsk {
            // It has nothing more to say: it is gone.
            return Ok(None);
        }
        let heard = receive(&client.socket).and_then(|heard| {
            heard
                .map(|(it, fd)| Ok((Asked::request(it)?, fd)))
                .transpose()
        });
        let served = match heard {
            Ok(Some((Ok(request), descriptor))) => {
                self.serve_request(&mut client, request, descriptor)
            }
            Ok(Some((Err(OtherVersion(theirs)), _))) => Err(other_release(theirs)),
            Ok(None) => return Ok(None),
            Err(error) => Err(Problem::of(ErrorKind::BadRequest, &error)),
        };
        if let Err(problem) = served {
            client.refuse(problem);
        }
        Ok((client.wants != Wants::ToAsk).then_some(client))
    }

    fn serve_request(
        &mut self,
        client: &mut Client,
        request: Request,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), Problem> {
        match request {
            Request::Connect { purpose } => {
                self.connect(client, Wants::Session(purpose))?;
                if self.is_stopping() && client.runs_command() {
                    client.pass_on(SIGTERM);
                }
            }
            Request::Look => self.connect(client, Wants::Look)?,
            Request::TakeOver {
                about,
                handover,
                own,
            } => {
                let command = self.take_over(about, &handover, own, descriptor)?;
                client.answer(&Reply::Taken { command });
            }
            Request::Commands { from } => {
                let (commands, next) = self.commands.list(from, LISTED);
                client.answer(&Reply::Commands { commands, next });
            }
            Request::Input { command } => {
                let input = self.commands.input(command)?;
                client.answer_with(&Reply::Descriptor, input);
            }
            Request::CloseInput { command } => {
                self.commands.close_input(command);
                client.answer(&Reply::Done);
            }
            Request::Signal { command, number } => {
                self.signal(command, number)?;
                client.answer(&Reply::Done);
            }
            Request::Resize { command, size } => {
                self.commands.resize(command, size)?;
                client.answer(&Reply::Done);
            }
            Request::Wait => client.wants = Wants::End,
            Request::WaitCommand { command } => {
                let known = self.commands.get(command)?;
                if known.report.is_some() || known.problem.is_some() {
                    client.answer(&command_end(known));
                } else {
                    client.wants = Wants::CommandEnd(command);
                }
            }
            Request::Stop { grace } => {
                self.signal_all(SIGTERM);
                self.begin_end(Ending::Stopped, grace);
                client.wants = Wants::End;
            }
            Request::Finish { report } => {
                self.begin_end(Ending::Command { report }, Duration::ZERO);
                client.wants = Wants::End;
            }
            Request::Kill => {
                self.begin_end(Ending::Killed, Duration::ZERO);
                client.wants = Wants::End;
            }
            Request::Rename { name } => {
                let renamed = self.held.rename(&mut self.record, name);
                renamed.map_err(|error| error.problem())?;
                note(&self.held, &self.record, Happening::Renamed);
                client.answer(&Reply::Done);
            }
        }
        Ok(())
    }

    fn connect(&mut self, client: &mut Client, wants: Wants) -> Result<(), Problem> {
        let stream = self.sandbox.connect();
        let stream = stream.map_err(|error| Problem::from(&error))?;
        client.answer_with(&Reply::Descriptor, stream.as_fd());
        client.wants = wants;
        Ok(())
    }

    fn take_over(
        &mut self,
        about: About,
        handover: &str,
        own: bool,
        stream: Option<OwnedFd>,
    ) -> Result<u32, Problem> {
        let bad = |error: io::Error| Problem::of(ErrorKind::BadRequest, &error);
        let handover = decode(handover).map_err(bad)?;
        let exec = stream.and_then(|stream| Exec::take_over(stream, handover));
        let exec = exec.ok_or_else(|| bad(io::ErrorKind::InvalidData.into()))?;
        let taken = if own {
            self.commands.take_own(exec, about)
        } else {
            self.commands.take(exec, about)
        };
        let command = taken.map_err(|error| Problem::of(ErrorKind::System, &error))?;
        let mut event = Event::now(
            Happening::CommandStarted,
            &self.record.id,
            &self.record.name,
        );
        event.command = Some(command);
        self.held.entry().registry().note(&event);
        Ok(command)
    }

    fn signal(&mut self, command: Option<u32>, number: u8) -> Result<(), Problem> {
        let own = self.record.plan.command.as_ref().map(|_| OWN);
        match command.or(own) {
            None => self.signal_all(number),
            Some(OWN) if self.own_is_a_clients() => self.signal_own_client(number)?,
            Some(command) => self.commands.signal(command, number)?,
        }
        Ok(())
    }

    /// Sends a signal to all that runs, here and at clients.
    fn signal_all(&self, number: u8) {
        self.commands.signal_all(number);
        for client in self.clients.iter().filter(|client| client.runs_command()) {
            client.pass_on(number);
        }
    }

    fn signal_own_client(&self, number: u8) -> Result<(), Problem> {
        let own = Wants::Session(Purpose::OwnCommand);
        let Some(client) = self.clients.iter().find(|client| client.wants == own) else {
            return Err(Problem::new(
                ErrorKind::NoSuchCommand,
                "the sandbox's own command is run by whoever started the sandbox, and takes no signals yet"
                    .to_owned(),
            ));
        };
        client.pass_on(number);
        Ok(())
    }
}

fn other_release(theirs: u32) -> Problem {
    let text = format!(
        "this sandbox's supervisor is of another release (it speaks version {VERSION}, not {theirs}): end \
         the sandbox with `sovereign kill`, or use that release"
    );
    Problem::new(ErrorKind::OtherRelease, text)
}

impl Client {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether it uses the sandbox.
    pub(super) const fn has_session(&self) -> bool {
        matches!(self.wants, Wants::Session(_))
    }

    /// Whether it runs a command, which can be told to end.
    pub(super) const fn runs_command(&self) -> bool {
        matches!(
            self.wants,
            Wants::Session(Purpose::Command | Purpose::OwnCommand)
        )
    }

    /// Has it pass a signal on to the command that it runs. One that does not listen is not waited for.
    fn pass_on(&self, signal: u8) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _ = rustix::net::send(&self.socket, &[signal], flags);
    }

    /// A client that is gone, or does not read, gets no answer.
    pub(super) fn answer(&self, reply: &Reply) {
        let _ = send(&self.socket, reply, None);
    }

    pub(super) fn answer_with(&self, reply: &Reply, descriptor: BorrowedFd) {
        let _ = send(&self.socket, reply, Some(descriptor));
    }

    pub(super) fn refuse(&self, problem: Problem) {
        self.answer(&Reply::Refused { problem });
    }
}

pub(super) fn command_end(command: &super::Command) -> Reply {
    match (&command.report, &command.problem) {
        (Some(report), _) => Reply::CommandEnded {
            report: report.clone(),
        },
        (None, Some(problem)) => Reply::Refused {
            problem: problem.clone(),
        },
        (None, None) => Reply::Done,
    }
}
