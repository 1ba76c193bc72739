//! What the end-to-end tests share: calls of the `sovereign` command with a deadline, and a view of
//! what a sandbox leaves on its host.

pub mod arguments;
pub mod bare_fs;
pub mod call;
pub mod conformance;
pub mod host;
pub mod images;
