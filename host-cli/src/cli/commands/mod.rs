//! The commands, one file each. Each returns what the program exits with.

#[cfg(target_os = "linux")]
pub(super) mod attach;
#[cfg(target_os = "linux")]
pub(super) mod cp;
pub(super) mod doctor;
#[cfg(target_os = "linux")]
pub(super) mod events;
#[cfg(target_os = "linux")]
pub(super) mod exec;
#[cfg(target_os = "linux")]
mod follow;
#[cfg(target_os = "linux")]
pub(super) mod fs;
pub(super) mod generate;
#[cfg(target_os = "linux")]
pub(super) mod image;
#[cfg(target_os = "linux")]
pub(super) mod life;
#[cfg(target_os = "linux")]
pub(super) mod logs;
#[cfg(target_os = "linux")]
pub(super) mod ls;
#[cfg(target_os = "linux")]
pub(super) mod named;
#[cfg(target_os = "linux")]
pub(super) mod prune;
#[cfg(target_os = "linux")]
pub(super) mod run;
#[cfg(target_os = "linux")]
pub(super) mod supervise;
#[cfg(target_os = "linux")]
pub(super) mod usage;
