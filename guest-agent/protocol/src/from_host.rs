//! The frames that the host sends.

use serde::{Deserialize, Serialize};

use crate::frame::{
    FrameError, Kind, decode_data, decode_empty, decode_message, encode_bytes, encode_message,
};
use crate::message::{Hello, OutputStream, Request, TerminalSize};

/// A frame from the host to the agent. Data is borrowed from the buffer it arrived in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostFrame<'a> {
    /// Who the host is. The first frame of a session.
    Hello(Hello),
    /// What the session is for. The second frame, and the only one of its kind.
    Request(Box<Request>),
    /// Data for the command's standard input, as far as there is credit for it.
    Stdin(&'a [u8]),
    /// The end of standard input. No `Stdin` follows.
    StdinEof,
    /// More of this output may be sent.
    Credit(OutputCredit),
    /// Nobody reads this output any more: the command's next write to it fails with EPIPE. What the
    /// agent had sent before is dropped by the host, and needs no credit.
    CloseOutput(OutputStream),
    /// A signal for the command's process group (with a terminal: its foreground process group).
    Signal(u8),
    /// The terminal's new size.
    Resize(TerminalSize),
}

/// Credit for one of the two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputCredit {
    /// The output.
    pub stream: OutputStream,
    /// How many more bytes may be sent.
    pub bytes: u32,
}

impl<'a> HostFrame<'a> {
    /// Appends the frame to `out`, which is unchanged on error.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLarge`] if it is larger than the protocol allows.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        match self {
            Self::Hello(hello) => encode_message(Kind::HostHello, hello, out),
            Self::Request(request) => encode_message(Kind::Request, request, out),
            Self::Stdin(data) => encode_bytes(Kind::Stdin, data, out),
            Self::StdinEof => encode_bytes(Kind::StdinEof, &[], out),
            Self::Credit(credit) => encode_message(Kind::OutputCredit, credit, out),
            Self::CloseOutput(stream) => encode_message(Kind::CloseOutput, stream, out),
            Self::Signal(number) => encode_message(Kind::Signal, number, out),
            Self::Resize(size) => encode_message(Kind::Resize, size, out),
        }
    }

    /// The frame that has this kind and payload.
    ///
    /// # Errors
    ///
    /// [`FrameError`] if the payload is malformed, the kind not the host's, or the peer's version
    /// another.
    pub fn decode(kind: Kind, payload: &'a [u8]) -> Result<Self, FrameError> {
        Ok(match kind {
            Kind::HostHello => Self::Hello(Hello::decode(kind, payload)?),
            Kind::Request => Self::Request(Box::new(decode_message(kind, payload)?)),
            Kind::Stdin => Self::Stdin(decode_data(kind, payload)?),
            Kind::StdinEof => {
                decode_empty(kind, payload)?;
                Self::StdinEof
            }
            Kind::OutputCredit => Self::Credit(decode_message(kind, payload)?),
            Kind::CloseOutput => Self::CloseOutput(decode_message(kind, payload)?),
            Kind::Signal => Self::Signal(decode_message(kind, payload)?),
            Kind::Resize => Self::Resize(decode_message(kind, payload)?),
            Kind::AgentHello
            | Kind::Started
            | Kind::Stdout
            | Kind::Stderr
            | Kind::InputCredit
            | Kind::StdinClosed
            | Kind::Exited
            | Kind::Error
            | Kind::Pong
            | Kind::Usage => return Err(FrameError::Unexpected(kind)),
        })
    }

    /// The frame's kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::HostHello,
            Self::Request(_) => Kind::Request,
            Self::Stdin(_) => Kind::Stdin,
            Self::StdinEof => Kind::StdinEof,
            Self::Credit(_) => Kind::OutputCredit,
            Self::CloseOutput(_) => Kind::CloseOutput,
            Self::Signal(_) => Kind::Signal,
            Self::Resize(_) => Kind::Resize,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::frame::{HEADER_LEN, Header, MAX_DATA, MAX_MESSAGE, PROTOCOL_VERSION};
    use crate::limits::{Resource, ResourceLimit};
    use crate::message::ExecRequest;
    use proptest::prelude::*;
    use serde_bytes::ByteBuf;

    fn hello() -> impl Strategy<Value = Hello> {
        (
            any::<String>(),
            any::<Option<u64>>(),
            any::<Option<[u8; 32]>>(),
        )
            .prop_map(|(release, realtime_ns, entropy)| Hello {
                protocol: PROTOCOL_VERSION,
                release: release.chars().take(100).collect(),
                realtime_ns,
                entropy,
                trace: Vec::new(),
            })
    }

    fn limit() -> impl Strategy<Value = ResourceLimit> {
        (
            prop::sample::select(&Resource::ALL),
            any::<(Option<u64>, Option<u64>)>(),
        )
            .prop_map(|(resource, (soft, hard))| ResourceLimit {
                resource,
                soft,
                hard,
            })
    }

    fn bytes() -> impl Strategy<Value = ByteBuf> {
        prop::collection::vec(any::<u8>(), 0..300).prop_map(ByteBuf::from)
    }

    prop_compose! {
        fn exec()(
            argv in prop::collection::vec(bytes(), 0..8),
            env in prop::collection::vec((bytes(), bytes()), 0..8),
            cwd in prop::option::of(bytes()),
            user in any::<Option<String>>(),
            stdin in any::<bool>(),
            tty in any::<Option<(u16, u16)>>(),
            timeout in any::<Option<Duration>>(),
            kill_after in any::<Option<Duration>>(),
            max_output in any::<Option<u64>>(),
            limits in prop::collection::vec(limit(), 0..4),
            processes in any::<Option<u32>>(),
        ) -> ExecRequest {
            let tty = tty.map(|(rows, columns)| TerminalSize { rows, columns });
            ExecRequest { argv, env, cwd, user, stdin, tty, timeout, kill_after, max_output, limits, processes }
        }
    }

    fn owned_frame() -> impl Strategy<Value = HostFrame<'static>> {
        let stream = prop_oneof![Just(OutputStream::Stdout), Just(OutputStream::Stderr)];
        prop_oneof![
            hello().prop_map(HostFrame::Hello),
            exec().prop_map(|exec| HostFrame::Request(Box::new(Request::Exec(exec)))),
            Just(HostFrame::Request(Box::new(Request::Ping))),
            Just(HostFrame::Request(Box::new(Request::PowerOff))),
            Just(HostFrame::StdinEof),
            (stream.clone(), any::<u32>())
                .prop_map(|(stream, bytes)| HostFrame::Credit(OutputCredit { stream, bytes })),
            stream.prop_map(HostFrame::CloseOutput),
            any::<u8>().prop_map(HostFrame::Signal),
            any::<(u16, u16)>()
                .prop_map(|(rows, columns)| HostFrame::Resize(TerminalSize { rows, columns })),
        ]
    }

    fn round_trip(frame: &HostFrame<'_>) {
        let mut out = Vec::new();
        frame.encode(&mut out).unwrap();
        let header = Header::decode(*out.first_chunk().unwrap()).unwrap();
        assert_eq!(header.kind, frame.kind());
        assert_eq!(header.length, out.len() - HEADER_LEN);
        assert_eq!(
            &HostFrame::decode(header.kind, &out[HEADER_LEN..]).unwrap(),
            frame
        );
    }

    #[test]
    fn request_beyond_the_limit_is_refused_and_leaves_nothing_behind() {
        let exec = ExecRequest {
            argv: vec![ByteBuf::from(vec![b'x'; MAX_MESSAGE])],
            ..ExecRequest::default()
        };
        let mut out = vec![1, 2, 3];
        let result = HostFrame::Request(Box::new(Request::Exec(exec))).encode(&mut out);
        assert!(matches!(
            result,
            Err(FrameError::TooLarge {
                kind: Kind::Request,
                ..
            })
        ));
        assert_eq!(out, [1, 2, 3]);
    }

    #[test]
    fn hello_of_another_version_is_told_apart_whatever_follows() {
        let payload = [0x87, 0x01, 0xff, 0xff, 0xff];
        assert_eq!(
            HostFrame::decode(Kind::HostHello, &payload),
            Err(FrameError::Version {
                theirs: 135,
                ours: PROTOCOL_VERSION
            })
        );
    }

    #[test]
    fn trailing_bytes_are_refused() {
        assert_eq!(
            HostFrame::decode(Kind::Signal, &[9, 0]),
            Err(FrameError::Malformed(Kind::Signal))
        );
        assert_eq!(
            HostFrame::decode(Kind::StdinEof, &[0]),
            Err(FrameError::Malformed(Kind::StdinEof))
        );
    }

    #[test]
    fn frames_of_the_agent_are_unexpected() {
        assert_eq!(
            HostFrame::decode(Kind::Exited, &[]),
            Err(FrameError::Unexpected(Kind::Exited))
        );
    }

    proptest! {
        #[test]
        fn every_frame_survives_the_wire(frame in owned_frame()) {
            round_trip(&frame);
        }

        #[test]
        fn data_survives_the_wire(data in prop::collection::vec(any::<u8>(), 1..MAX_DATA)) {
            round_trip(&HostFrame::Stdin(&data));
        }

        #[test]
        fn arbitrary_payloads_never_panic(kind in any::<u8>(), payload in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(kind) = Kind::from_byte(kind) {
                let _ = HostFrame::decode(kind, &payload);
            }
        }
    }
}
