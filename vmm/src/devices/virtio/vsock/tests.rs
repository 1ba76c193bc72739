//! The device between sockets of this process and a driver made of plain rings.

mod closing;
mod data;
mod guest;
mod handshake;
mod hostile;
mod path;
mod random;
