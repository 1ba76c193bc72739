//! The `sovereign` program. All that it does is in the library.

use std::ffi::OsString;
use std::process::ExitCode;

use dlmalloc::GlobalDlmalloc;

/// musl's allocator maps and unmaps memory for nearly every size that it meets first, and a program
/// that lives for milliseconds meets them all: it costs a quarter of what this program does itself
/// on the way to a running sandbox.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    ExitCode::from(sovereign::cli::main(&args))
}
