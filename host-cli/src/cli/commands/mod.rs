//! The commands, one file each. Each returns what the program exits with.

pub(super) mod doctor;
pub(super) mod generate;
#[cfg(target_os = "linux")]
pub(super) mod image;
#[cfg(target_os = "linux")]
pub(super) mod prune;
#[cfg(target_os = "linux")]
pub(super) mod run;
