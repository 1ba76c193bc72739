//! What clients and a supervisor say to each other: a packet is one message, in JSON, with at most
//! one descriptor.
//!
//! A client asks one thing on a connection. Where it gets a stream, the connection is its lease: the
//! supervisor takes the session to be over when it is closed, and sends the signals for what the client
//! runs by it, each a packet of one byte.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use agent_client::Handover;
use agent_protocol::message::{ExecRequest, ExitReport, TerminalSize};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{ErrorKind, Problem};
use crate::registry::Name;
use crate::registry::record::{Ending, Timestamp};
use crate::tier::packets;

/// The version of this protocol. A supervisor may be of an older release than its client.
pub(crate) const VERSION: u32 = 1;

/// The largest message in bytes: a session that changes hands brings what was read ahead.
pub(crate) const MAX_MESSAGE: usize = 192 * 1024;

/// How much of a command's arguments is told, in bytes.
const ARGV_LEN: usize = 2048;

/// What a client says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) version: u32,
    #[serde(flatten)]
    pub(crate) request: Request,
}

impl Asked {
    /// What a client of this version wants. Of what one of another wants only this is known everywhere: to
    /// end the sandbox.
    pub(crate) fn request(message: Value) -> io::Result<Result<Request, OtherVersion>> {
        #[derive(Deserialize)]
        struct Beginning {
            version: u32,
            request: String,
        }
        let Beginning { version, request } = Beginning::deserialize(&message)?;
        if version == VERSION {
            return Ok(Ok(Self::deserialize(message)?.request));
        }
        Ok(match request.as_str() {
            "kill" => Ok(Request::Kill),
            _ => Err(OtherVersion(version)),
        })
    }
}

/// A client speaks this version, which is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OtherVersion(pub(crate) u32);

/// What a client wants.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// A stream to the agent.
    Connect {
        #[serde(default)]
        purpose: Purpose,
    },
    /// A stream to the agent, for somebody who only looks: the sandbox is not in use by that.
    Look,
    /// Go on with this command; the descriptor is its session's stream.
    TakeOver {
        about: About,
        /// A [`Handover`], encoded.
        handover: String,
        /// Whether it is the sandbox's own, and the sandbox ends with it.
        own: bool,
    },
    /// The sandbox's own command, which a client ran, ended so: end the sandbox.
    Finish { report: ExitReport },
    /// What is known of the commands, from this number on.
    Commands {
        #[serde(default)]
        from: u32,
    },
    /// The writing end of a command's standard input.
    Input { command: u32 },
    /// Let the command read the end of its input, once all who write to it are gone.
    CloseInput { command: u32 },
    /// Send a signal to a command, or to the sandbox's own.
    Signal { command: Option<u32>, number: u8 },
    /// A command's terminal has this size.
    Resize { command: u32, size: TerminalSize },
    /// Say when the sandbox has ended.
    Wait,
    /// Say when a command has ended.
    WaitCommand { command: u32 },
    /// End the sandbox: SIGTERM to its commands, and the end after this time.
    Stop { grace: Duration },
    /// End the sandbox at once.
    Kill,
    /// Give the sandbox another name.
    Rename { name: Name },
}

/// What a stream to the agent is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Purpose {
    /// Files, or what a client of an older release does not tell.
    #[default]
    Other,
    /// A command.
    Command,
    /// The sandbox's own command.
    OwnCommand,
}

/// What a supervisor answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// The descriptor that comes with it is what was asked for.
    Descriptor,
    /// The command has this number now.
    Taken { command: u32 },
    /// What is known of the commands, as many as one message has room for.
    Commands {
        commands: Vec<Command>,
        /// From where on to ask for more.
        #[serde(default)]
        next: Option<u32>,
    },
    /// It is done.
    Done,
    /// The sandbox has ended.
    Ended { ending: Ending },
    /// The command has ended.
    CommandEnded { report: ExitReport },
    /// It cannot be done.
    Refused { problem: Problem },
}

/// What a supervisor says to the one who started it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "start", rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// Something on the way to the start takes its own time, such as the import of an image.
    Preparing,
    /// That is over, and the start goes on.
    Prepared,
    /// The sandbox runs.
    Running,
    /// It does not.
    Failed {
        problem: Problem,
        /// What the local tier would reach, if consent to it is all that is missing.
        consent: Option<crate::tier::Isolation>,
    },
    /// The sandbox has ended before the one who started it let go of it.
    Ended { ending: Ending },
}

/// What the one who started a supervisor says to it: that it may outlive him.
pub(crate) const DETACH: &[u8] = b"detach";

/// What people want to know of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Program and arguments; what is no text is replaced, and what is long is cut and ends with `…`.
    pub argv: Vec<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether something can be typed.
    pub stdin: bool,
}

/// What is said to who asks for a command that there is not.
pub(crate) fn no_such_command(number: u32) -> Problem {
    Problem::new(
        ErrorKind::NoSuchCommand,
        format!("there is no command {number}"),
    )
}

/// A command that a supervisor holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Its number in its sandbox; 0 is the sandbox's own.
    pub command: u32,
    /// What it is.
    #[serde(flatten)]
    pub about: About,
    /// Since when it is held.
    pub since: Timestamp,
    /// How it ended, if it has.
    pub report: Option<ExitReport>,
    /// Why nobody knows how it ended, if that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

impl About {
    /// What is to be known of this request.
    #[must_use]
    pub fn of(request: &ExecRequest) -> Self {
        Self::whole(request).cut()
    }

    /// The same, however long its arguments are.
    pub(crate) fn whole(request: &ExecRequest) -> Self {
        let text = |bytes: &serde_bytes::ByteBuf| String::from_utf8_lossy(bytes).into_owned();
        Self {
            argv: request.argv.iter().map(text).collect(),
            tty: request.tty.is_some(),
            stdin: request.stdin,
        }
    }

    /// The same, short enough for many to be told at once.
    pub(crate) fn cut(mut self) -> Self {
        const ELLIPSIS: char = '…';
        let mut room = ARGV_LEN;
        for (number, argument) in self.argv.iter_mut().enumerate() {
            // Many empty ones take room too.
            if let Some(left) = room.checked_sub(argument.len().saturating_add(1)) {
                room = left;
                continue;
            }
            let end = room.saturating_sub(ELLIPSIS.len_utf8().saturating_add(1));
            argument.truncate(argument.floor_char_boundary(end));
            argument.push(ELLIPSIS);
            self.argv.truncate(number.saturating_add(1));
            break;
        }
        self
    }
}

/// A session's state as text.
pub(crate) fn encode(handover: &Handover) -> io::Result<String> {
    let bytes = postcard::to_allocvec(handover).map_err(io::Error::other)?;
    Ok(BASE64_STANDARD.encode(bytes))
}

/// A session's state from text.
pub(crate) fn decode(text: &str) -> io::Result<Handover> {
    let bytes = BASE64_STANDARD.decode(text).map_err(io::Error::other)?;
    postcard::from_bytes(&bytes).map_err(io::Error::other)
}

/// Sends a message.
pub(crate) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    descriptor: Option<BorrowedFd>,
) -> io::Result<()> {
    packets::send(socket, &serde_json::to_vec(message)?, descriptor)
}

/// Takes the next message; `None` at the end.
pub(crate) fn receive<M: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(M, Option<OwnedFd>)>> {
    let received = match packets::receive(socket, MAX_MESSAGE) {
        // The other end was closed before it had read what was said to it.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
        received => received?,
    };
    let Some((bytes, descriptor)) = received else {
        return Ok(None);
    };
    Ok(Some((serde_json::from_slice(&bytes)?, descriptor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_with_their_descriptor() {
        let (ours, theirs) = packets::pair().unwrap();
        let asked = Asked {
            version: VERSION,
            request: Request::Stop {
                grace: Duration::from_secs(3),
            },
        };
        send(&ours, &asked, Some(ours.as_fd())).unwrap();
        let (heard, descriptor) = receive::<Asked>(&theirs).unwrap().unwrap();
        assert!(matches!(heard.request, Request::Stop { grace } if grace.as_secs() == 3));
        assert!(descriptor.is_some());
        drop((ours, descriptor));
        assert!(receive::<Asked>(&theirs).unwrap().is_none());
    }

    #[test]
    fn clients_of_an_older_release_do_not_tell_what_they_connect_for() {
        let heard = |text| serde_json::from_str::<Asked>(text).unwrap().request;
        let old = heard(r#"{"version":1,"request":"connect"}"#);
        let purpose = Purpose::Other;
        assert!(matches!(old, Request::Connect { purpose: told } if told == purpose));
        let new = heard(r#"{"version":1,"request":"connect","purpose":"own-command"}"#);
        let purpose = Purpose::OwnCommand;
        assert!(matches!(new, Request::Connect { purpose: told } if told == purpose));
    }

    #[test]
    fn whoever_is_gone_without_having_heard_is_gone() {
        let (ours, theirs) = packets::pair().unwrap();
        send(&ours, &"unheard", None).unwrap();
        drop(theirs);
        assert!(receive::<Asked>(&ours).unwrap().is_none());
    }

    #[test]
    fn client_of_another_release_can_end_the_sandbox_and_nothing_else() {
        let heard = |text| Asked::request(serde_json::from_str(text)?);
        let kill = heard(r#"{"version":2,"request":"kill","how":["gently"]}"#);
        assert!(matches!(kill, Ok(Ok(Request::Kill))), "{kill:?}");
        for text in [
            r#"{"version":2,"request":"sing"}"#,
            r#"{"version":2,"request":"stop","grace":"long"}"#,
        ] {
            let refused = heard(text);
            assert!(matches!(refused, Ok(Err(OtherVersion(2)))), "{refused:?}");
        }
        assert!(heard(r#"{"version":1,"request":"sing"}"#).is_err());
        assert!(heard(r#"{"version":1,"request":"kill"}"#).is_ok());
        assert!(heard(r#"["kill"]"#).is_err());
    }

    #[test]
    fn long_arguments_are_cut_and_say_so() {
        let about = |argv: &[&str]| About {
            argv: argv.iter().map(|it| (*it).to_owned()).collect(),
            ..About::default()
        };
        let short = about(&["sh", "-c", &"ä".repeat(1000)]);
        assert_eq!(short.clone().cut(), short);
        for long in [
            about(&["sh", "-c", &"ä".repeat(1100), "and more"]),
            about(&vec!["argument"; 1000]),
            about(&vec![""; 100_000]),
        ] {
            let cut = long.clone().cut();
            let size: usize = cut.argv.iter().map(|it| it.len() + 1).sum();
            assert!((2000..2056).contains(&size), "{size}: {cut:?}");
            let (last, others) = cut.argv.split_last().unwrap();
            assert_eq!(others, &long.argv[..others.len()]);
            let whole = &long.argv[others.len()];
            assert!(whole.starts_with(last.strip_suffix('…').unwrap()));
            assert_eq!(cut.clone().cut(), cut);
        }
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let (ours, theirs) = packets::pair().unwrap();
        packets::send(&ours, b"{\"version\":1,\"request\":\"sing\"}", None).unwrap();
        assert!(receive::<Asked>(&theirs).is_err());
        assert!(decode("!").is_err());
    }
}
