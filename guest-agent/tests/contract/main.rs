//! The contract of exec, held against the real agent: an ordinary child process, over a Unix socket,
//! through the client.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "in a test, what fails shall panic")]

mod agent;
mod control;
mod endings;
mod exit;
mod files;
mod handover;
mod lanes;
mod load;
mod protocol;
mod refusals;
mod streams;
mod terminal;
mod trees;
mod unfinished;
mod user;
