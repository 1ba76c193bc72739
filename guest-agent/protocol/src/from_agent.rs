//! The frames that the agent sends.

use crate::frame::{
    FrameError, Kind, decode_data, decode_empty, decode_message, encode_bytes, encode_message,
};
use crate::message::{AgentError, ExitReport, Hello};
use crate::usage::Usage;

/// A frame from the agent to the host. Data is borrowed from the buffer it arrived in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentFrame<'a> {
    /// Who the agent is. The first frame of a session.
    Hello(Hello),
    /// The command runs: its program has been executed.
    Started {
        /// Its process number, as seen by the agent.
        pid: u32,
    },
    /// Data from the command's standard output, or from its terminal.
    Stdout(&'a [u8]),
    /// Data from the command's standard error.
    Stderr(&'a [u8]),
    /// So many more bytes of standard input may be sent.
    Credit(u32),
    /// Nobody reads the command's standard input any more: what is sent is dropped.
    StdinClosed,
    /// How the command ended. All its output came before. The last frame.
    Exited(ExitReport),
    /// Why the request could not be served. The last frame.
    Error(AgentError),
    /// The answer to a ping. The last frame.
    Pong,
    /// What the sandbox uses. The last frame.
    Usage(Usage),
}

impl<'a> AgentFrame<'a> {
    /// Appends the frame to `out`, which is unchanged on error.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLarge`] if it is larger than the protocol allows.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        match self {
            Self::Hello(hello) => encode_message(Kind::AgentHello, hello, out),
            Self::Started { pid } => encode_message(Kind::Started, pid, out),
            Self::Stdout(data) => encode_bytes(Kind::Stdout, data, out),
            Self::Stderr(data) => encode_bytes(Kind::Stderr, data, out),
            Self::Credit(bytes) => encode_message(Kind::InputCredit, bytes, out),
            Self::StdinClosed => encode_bytes(Kind::StdinClosed, &[], out),
            Self::Exited(report) => encode_message(Kind::Exited, report, out),
            Self::Error(error) => encode_message(Kind::Error, error, out),
            Self::Pong => encode_bytes(Kind::Pong, &[], out),
            Self::Usage(usage) => encode_message(Kind::Usage, usage, out),
        }
    }

    /// The frame that has this kind and payload.
    ///
    /// # Errors
    ///
    /// [`FrameError`] if the payload is malformed, the kind not the agent's, or the peer's version
    /// another.
    pub fn decode(kind: Kind, payload: &'a [u8]) -> Result<Self, FrameError> {
        Ok(match kind {
            Kind::AgentHello => Self::Hello(Hello::decode(kind, payload)?),
            Kind::Started => Self::Started {
                pid: decode_message(kind, payload)?,
            },
            Kind::Stdout => Self::Stdout(decode_data(kind, payload)?),
            Kind::Stderr => Self::Stderr(decode_data(kind, payload)?),
            Kind::InputCredit => Self::Credit(decode_message(kind, payload)?),
            Kind::StdinClosed => {
                decode_empty(kind, payload)?;
                Self::StdinClosed
            }
            Kind::Exited => Self::Exited(decode_message(kind, payload)?),
            Kind::Error => Self::Error(decode_message(kind, payload)?),
            Kind::Pong => {
                decode_empty(kind, payload)?;
                Self::Pong
            }
            Kind::Usage => Self::Usage(decode_message(kind, payload)?),
            Kind::HostHello
            | Kind::Request
            | Kind::Stdin
            | Kind::StdinEof
            | Kind::OutputCredit
            | Kind::CloseOutput
            | Kind::Signal
            | Kind::Resize => return Err(FrameError::Unexpected(kind)),
        })
    }

    /// The frame's kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::AgentHello,
            Self::Started { .. } => Kind::Started,
            Self::Stdout(_) => Kind::Stdout,
            Self::Stderr(_) => Kind::Stderr,
            Self::Credit(_) => Kind::InputCredit,
            Self::StdinClosed => Kind::StdinClosed,
            Self::Exited(_) => Kind::Exited,
            Self::Error(_) => Kind::Error,
            Self::Pong => Kind::Pong,
            Self::Usage(_) => Kind::Usage,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::frame::{HEADER_LEN, Header, MAX_DATA, PROTOCOL_VERSION};
    use crate::message::TracePoint;
    use crate::usage::CountedBy;
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = String> {
        prop::collection::vec(any::<char>(), 0..40).prop_map(String::from_iter)
    }

    fn hello() -> impl Strategy<Value = Hello> {
        let point =
            (text(), any::<u64>()).prop_map(|(name, boottime_ns)| TracePoint { name, boottime_ns });
        (text(), prop::collection::vec(point, 0..12)).prop_map(|(release, trace)| Hello {
            protocol: PROTOCOL_VERSION,
            release,
            realtime_ns: None,
            entropy: None,
            trace,
        })
    }

    prop_compose! {
        fn report()(
            code in any::<Option<u8>>(),
            signal in any::<Option<u8>>(),
            timed_out in any::<bool>(),
            truncated in any::<bool>(),
            duration in any::<Duration>(),
        ) -> ExitReport {
            ExitReport { code, signal, timed_out, truncated, duration }
        }
    }

    prop_compose! {
        fn usage()(
            counted_by in prop::sample::select(&[
                CountedBy::Kernel,
                CountedBy::Cgroup,
                CountedBy::Processes,
            ]),
            cpu in any::<Option<Duration>>(),
            [memory_bytes, memory_limit_bytes, read_bytes, written_bytes] in
                any::<[Option<u64>; 4]>(),
            processes in any::<u64>(),
        ) -> Usage {
            Usage {
                counted_by, cpu, memory_bytes, memory_limit_bytes, read_bytes, written_bytes, processes,
            }
        }
    }

    fn error() -> impl Strategy<Value = AgentError> {
        prop_oneof![
            text().prop_map(AgentError::NotFound),
            (text(), text())
                .prop_map(|(program, reason)| AgentError::NotExecutable { program, reason }),
            (text(), text()).prop_map(|(path, reason)| AgentError::BadDirectory { path, reason }),
            text().prop_map(AgentError::BadUser),
            text().prop_map(AgentError::TooLarge),
            (text(), text()).prop_map(|(limit, reason)| AgentError::BadLimit { limit, reason }),
            text().prop_map(AgentError::BadRequest),
            text().prop_map(AgentError::Protocol),
            (text(), text()).prop_map(|(doing, reason)| AgentError::System { doing, reason }),
        ]
    }

    fn owned_frame() -> impl Strategy<Value = AgentFrame<'static>> {
        prop_oneof![
            hello().prop_map(AgentFrame::Hello),
            any::<u32>().prop_map(|pid| AgentFrame::Started { pid }),
            any::<u32>().prop_map(AgentFrame::Credit),
            Just(AgentFrame::StdinClosed),
            report().prop_map(AgentFrame::Exited),
            error().prop_map(AgentFrame::Error),
            Just(AgentFrame::Pong),
            usage().prop_map(AgentFrame::Usage),
        ]
    }

    fn round_trip(frame: &AgentFrame<'_>) {
        let mut out = Vec::new();
        frame.encode(&mut out).unwrap();
        let header = Header::decode(*out.first_chunk().unwrap()).unwrap();
        assert_eq!(header.kind, frame.kind());
        assert_eq!(
            &AgentFrame::decode(header.kind, &out[HEADER_LEN..]).unwrap(),
            frame
        );
    }

    #[test]
    fn frames_of_the_host_are_unexpected() {
        assert_eq!(
            AgentFrame::decode(Kind::Stdin, b"x"),
            Err(FrameError::Unexpected(Kind::Stdin))
        );
    }

    #[test]
    fn data_frame_without_data_is_refused() {
        assert_eq!(
            AgentFrame::decode(Kind::Stdout, &[]),
            Err(FrameError::Malformed(Kind::Stdout))
        );
    }

    proptest! {
        #[test]
        fn every_frame_survives_the_wire(frame in owned_frame()) {
            round_trip(&frame);
        }

        #[test]
        fn data_survives_the_wire(data in prop::collection::vec(any::<u8>(), 1..MAX_DATA)) {
            round_trip(&AgentFrame::Stdout(&data));
            round_trip(&AgentFrame::Stderr(&data));
        }

        #[test]
        fn arbitrary_payloads_never_panic(kind in any::<u8>(), payload in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(kind) = Kind::from_byte(kind) {
                let _ = AgentFrame::decode(kind, &payload);
            }
        }
    }
}
