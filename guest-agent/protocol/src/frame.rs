//! Frames: what every message and every piece of data travels in.
//!
//! ```text
//!  byte 0        4      5             8
//!       ┌────────┬──────┬─────────────┬─────────────────────┐
//!       │ length │ kind │ zero (3)    │ payload             │
//!       │ u32 LE │ u8   │             │ `length` bytes      │
//!       └────────┴──────┴─────────────┴─────────────────────┘
//! ```
//!
//! Data frames carry raw bytes, all others a [postcard](https://postcard.jamesmunns.com) message.
//! The header, and the kind and first field of `Hello`, are the same in every protocol version, so
//! that two versions can tell each other apart.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Grows with every change that an older peer would misunderstand.
pub const PROTOCOL_VERSION: u16 = 3;
/// The vsock port on which the agent listens; and the host port to which it connects once, when it
/// is ready, for the first session.
pub const AGENT_PORT: u32 = 1024;
/// How long the agent waits for a request on a stream, before it closes it.
pub const REQUEST_PATIENCE: Duration = Duration::from_secs(30);
/// The size of a frame's header.
pub const HEADER_LEN: usize = 8;
/// The most data bytes in one frame: with its header it is 64 KiB, the most that one vsock packet of
/// Linux carries.
pub const MAX_DATA: usize = 64 * 1024 - HEADER_LEN;
/// The largest request (an exec request with its arguments and environment), in bytes.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// The largest payload of the other control frames, in bytes.
pub const MAX_CONTROL: usize = 16 * 1024;

/// What a frame is. Kinds below 0x80 come from the host, the others from the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Host: who it is. The first frame.
    HostHello = 0x01,
    /// Host: what the session is for. The second frame.
    Request = 0x02,
    /// Host: data for the command's standard input.
    Stdin = 0x03,
    /// Host: the end of standard input.
    StdinEof = 0x04,
    /// Host: more output may be sent.
    OutputCredit = 0x05,
    /// Host: nobody reads this output any more.
    CloseOutput = 0x06,
    /// Host: a signal for the command.
    Signal = 0x07,
    /// Host: the terminal's new size.
    Resize = 0x08,
    /// Agent: who it is. The first frame.
    AgentHello = 0x81,
    /// Agent: the command runs.
    Started = 0x82,
    /// Agent: data from the command's standard output (or its terminal).
    Stdout = 0x83,
    /// Agent: data from the command's standard error.
    Stderr = 0x84,
    /// Agent: more input may be sent.
    InputCredit = 0x85,
    /// Agent: nobody reads the command's standard input any more.
    StdinClosed = 0x86,
    /// Agent: how the command ended. The last frame.
    Exited = 0x87,
    /// Agent: why the request could not be served. The last frame.
    Error = 0x88,
    /// Agent: the answer to a ping. The last frame.
    Pong = 0x89,
    /// Agent: what the sandbox uses. The last frame.
    Usage = 0x8a,
}

impl Kind {
    /// The kind with this number.
    ///
    /// # Errors
    ///
    /// [`FrameError::UnknownKind`] if there is none.
    pub fn from_byte(byte: u8) -> Result<Self, FrameError> {
        Ok(match byte {
            0x01 => Self::HostHello,
            0x02 => Self::Request,
            0x03 => Self::Stdin,
            0x04 => Self::StdinEof,
            0x05 => Self::OutputCredit,
            0x06 => Self::CloseOutput,
            0x07 => Self::Signal,
            0x08 => Self::Resize,
            0x81 => Self::AgentHello,
            0x82 => Self::Started,
            0x83 => Self::Stdout,
            0x84 => Self::Stderr,
            0x85 => Self::InputCredit,
            0x86 => Self::StdinClosed,
            0x87 => Self::Exited,
            0x88 => Self::Error,
            0x89 => Self::Pong,
            0x8a => Self::Usage,
            unknown => return Err(FrameError::UnknownKind(unknown)),
        })
    }

    /// The most payload bytes that a frame of this kind may have.
    #[must_use]
    pub fn limit(self) -> usize {
        match self {
            Self::Stdin | Self::Stdout | Self::Stderr => MAX_DATA,
            Self::Request => MAX_MESSAGE,
            _ => MAX_CONTROL,
        }
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// The payload's size in bytes; at most [`Kind::limit`].
    pub length: usize,
}

impl Header {
    /// The header's bytes.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLarge`] if the length is beyond the kind's limit.
    pub fn encode(self) -> Result<[u8; HEADER_LEN], FrameError> {
        let length = self.checked_length()?.to_le_bytes();
        let [a, b, c, d] = length;
        Ok([a, b, c, d, self.kind as u8, 0, 0, 0])
    }

    /// The header that these bytes are.
    ///
    /// # Errors
    ///
    /// [`FrameError`] if the kind is unknown, the length beyond its limit, or a reserved byte set.
    pub fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [a, b, c, d, kind, reserved @ ..] = bytes;
        let kind = Kind::from_byte(kind)?;
        if reserved != [0; 3] {
            return Err(FrameError::ReservedBytes(kind));
        }
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let header = Self { kind, length };
        header.checked_length()?;
        Ok(header)
    }

    fn checked_length(self) -> Result<u32, FrameError> {
        let too_large = FrameError::TooLarge {
            kind: self.kind,
            length: self.length,
            limit: self.kind.limit(),
        };
        if self.length > self.kind.limit() {
            return Err(too_large);
        }
        u32::try_from(self.length).map_err(|_| too_large)
    }
}

/// Appends a control frame to `out`, which is unchanged on error.
pub(crate) fn encode_message<T: Serialize>(
    kind: Kind,
    message: &T,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let payload = postcard::to_allocvec(message).map_err(|_| FrameError::Malformed(kind))?;
    encode_bytes(kind, &payload, out)
}

/// Appends a frame with this payload to `out`, which is unchanged on error.
pub(crate) fn encode_bytes(
    kind: Kind,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let header = Header {
        kind,
        length: payload.len(),
    }
    .encode()?;
    out.reserve(HEADER_LEN + payload.len());
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
    Ok(())
}

/// The message that a control frame's payload is, all of it.
pub(crate) fn decode_message<T: DeserializeOwned>(
    kind: Kind,
    payload: &[u8],
) -> Result<T, FrameError> {
    match postcard::take_from_bytes(payload) {
        Ok((message, [])) => Ok(message),
        Ok(_) | Err(_) => Err(FrameError::Malformed(kind)),
    }
}

/// The data of a data frame.
pub(crate) fn decode_data(kind: Kind, payload: &[u8]) -> Result<&[u8], FrameError> {
    if payload.is_empty() {
        Err(FrameError::Malformed(kind))
    } else {
        Ok(payload)
    }
}

/// Checks that a frame that says all by its kind has no payload.
pub(crate) fn decode_empty(kind: Kind, payload: &[u8]) -> Result<(), FrameError> {
    if payload.is_empty() {
        Ok(())
    } else {
        Err(FrameError::Malformed(kind))
    }
}

/// How a peer can break the protocol. Each is the end of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No frame has this number.
    #[error("unknown frame kind {0:#04x}")]
    UnknownKind(u8),
    /// The kind exists, but not in this direction or at this moment.
    #[error("unexpected {0:?} frame")]
    Unexpected(Kind),
    /// The reserved bytes of the header are not zero.
    #[error("reserved header bytes of a {0:?} frame are not zero")]
    ReservedBytes(Kind),
    /// The payload is larger than this kind may have.
    #[error("{kind:?} frame of {length} bytes, at most {limit} are allowed")]
    TooLarge {
        /// The frame's kind.
        kind: Kind,
        /// Its payload's size.
        length: usize,
        /// The most it may be.
        limit: usize,
    },
    /// The payload is not what the kind says.
    #[error("malformed {0:?} frame")]
    Malformed(Kind),
    /// More data than was allowed, or more credit than a window has.
    #[error("credit of {0:?} exceeded")]
    CreditExceeded(Kind),
    /// The peers do not understand each other.
    #[error("the peer speaks protocol version {theirs}, this is version {ours}")]
    Version {
        /// The peer's version.
        theirs: u16,
        /// Our version.
        ours: u16,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header_layout_is_fixed() {
        let header = Header {
            kind: Kind::Stdout,
            length: 0x1234,
        };
        assert_eq!(header.encode().unwrap(), [0x34, 0x12, 0, 0, 0x83, 0, 0, 0]);
    }

    #[test]
    fn unknown_kind_is_refused() {
        assert_eq!(
            Header::decode([0, 0, 0, 0, 0x7f, 0, 0, 0]),
            Err(FrameError::UnknownKind(0x7f))
        );
    }

    #[test]
    fn reserved_bytes_are_refused() {
        assert_eq!(
            Header::decode([0, 0, 0, 0, 0x04, 0, 1, 0]),
            Err(FrameError::ReservedBytes(Kind::StdinEof))
        );
    }

    #[test]
    fn length_beyond_the_limit_is_refused_both_ways() {
        for kind in [Kind::Stdin, Kind::Request, Kind::Exited] {
            let length = kind.limit() + 1;
            let expected = Err(FrameError::TooLarge {
                kind,
                length,
                limit: kind.limit(),
            });
            assert_eq!(Header { kind, length }.encode().map(|_| ()), expected);
            let [a, b, c, d] = u32::try_from(length).unwrap().to_le_bytes();
            assert_eq!(
                Header::decode([a, b, c, d, kind as u8, 0, 0, 0]).map(|_| ()),
                expected
            );
        }
    }

    proptest! {
        #[test]
        fn every_header_that_decodes_encodes_to_the_same_bytes(bytes in any::<[u8; HEADER_LEN]>()) {
            if let Ok(header) = Header::decode(bytes) {
                prop_assert_eq!(header.encode().unwrap(), bytes);
            }
        }

        #[test]
        fn every_kind_survives_its_byte(byte in any::<u8>()) {
            if let Ok(kind) = Kind::from_byte(byte) {
                prop_assert_eq!(kind as u8, byte);
            }
        }
    }
}
