//! Debian's archive: which part of it this machine takes packages from, and taking some without
//! installing them.
//!
//! ```text
//!  the machine's apt knows the package ──▶ apt-get download      (its mirrors, its proxies)
//!  it does not (Ubuntu, no suite for it) ─▶ extract: mmdebstrap  (its default mirrors)
//! ```

pub(crate) mod elevate;
pub(crate) mod extract;
pub(crate) mod mirrors;

pub use elevate::ElevateError;
pub use extract::{ExtractError, extract};
