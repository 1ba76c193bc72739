//! The commands, one file each. Each returns what the program exits with.

pub(super) mod doctor;
pub(super) mod generate;
pub(super) mod image;
pub(super) mod run;
