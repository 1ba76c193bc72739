//! Trees of files as tar streams, what proves that a stream came whole, and the lane that it takes.
//!
//! ```text
//!  path ──pack──▶ tar stream ──────────▶ unpack──▶ folder   nothing is ever written outside the folder
//!            DigestWriter      TrailedReader
//!              LaneWriter ────▶ LaneReader
//! ```
//!
//! Both sides of a sandbox's wall use this: the agent packs what the host asks for and unpacks what it
//! gets, and so does the host. What comes out of a sandbox is hostile: every entry is resolved by
//! `openat2` beneath its folder, its name is checked, its headers are bounded, and nothing is written
//! through a link. Of the format, the fields of headers are read and written by the `tar` crate.

#![forbid(unsafe_code)]

pub mod buffered;
pub mod digest;
#[cfg(target_os = "linux")]
mod error;
#[cfg(target_os = "linux")]
mod header;
pub mod lane;
#[cfg(target_os = "linux")]
mod new_file;
#[cfg(target_os = "linux")]
mod pack;
#[cfg(target_os = "linux")]
mod pieces;
#[cfg(target_os = "linux")]
mod place;
#[cfg(target_os = "linux")]
mod read;
pub mod room;
#[cfg(target_os = "linux")]
mod temporary;
#[cfg(target_os = "linux")]
mod unpack;

#[cfg(target_os = "linux")]
pub use self::{
    error::ArchiveError,
    new_file::NewFile,
    pack::{Packed, pack},
    place::Links,
    unpack::{UnpackOptions, Unpacked, unpack},
};
