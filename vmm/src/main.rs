//! The VMM process: one a sandbox.

fn main() -> std::process::ExitCode {
    vmm::process::main()
}
