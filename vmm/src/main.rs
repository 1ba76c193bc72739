//! The VMM process: one a sandbox.

use dlmalloc::GlobalDlmalloc;

/// musl's allocator maps and unmaps memory for nearly every size that it meets first, which costs more
/// than most of what is done with it on the way to a running guest.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

fn main() -> std::process::ExitCode {
    vmm::process::main()
}
