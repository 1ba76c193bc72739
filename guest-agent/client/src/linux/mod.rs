//! The client on Linux: descriptors, `poll`, one thread.

pub mod child;
pub mod control;
pub mod detach;
pub mod files;
mod lease;
pub mod output;
mod poll;
pub mod pump;
pub mod session;
pub mod sink;
pub mod source;
mod wait;
