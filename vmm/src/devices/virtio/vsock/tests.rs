//! The device between sockets of this process and a driver made of plain rings.

#![expect(
    clippy::cast_possible_truncation,
    reason = "what the tests count is small"
)]

mod closing;
mod data;
mod guest;
mod handshake;
mod hostile;
mod path;
mod random;
mod spent;
