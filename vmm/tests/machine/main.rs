//! Whole machines with guests of a few instructions, in this process and in a VMM process.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod guest;
mod in_process;
mod process;
