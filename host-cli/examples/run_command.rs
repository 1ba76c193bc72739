//! Runs one command in a sandbox of its own and prints what came of it.
//!
//! ```text
//! cargo build -p guest-agent -p vmm --bins          # once
//! cargo run -p sovereign --example run_command -- python3 -c 'print(6 * 7)'
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use sovereign::error::chain;
use sovereign::{
    Engine, ExecRequest, Isolation, Launch, Policy, SandboxSpec, StartError, Timeline,
};

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("{}", chain(&*error));
        let failure = error.downcast_ref::<StartError>();
        if let Some(hint) = failure.and_then(StartError::hint) {
            eprintln!("hint: {hint}");
        }
        ExitCode::FAILURE
    })
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    // Nothing weaker than a virtual machine will do, whatever this machine has.
    let policy = Policy {
        min_isolation: Isolation::Vm,
        ..Policy::default()
    };
    let spec = SandboxSpec {
        memory_mib: Some(128),
        ..SandboxSpec::default()
    };
    let (mut sandbox, _) =
        Engine::new().start(&policy, Launch::new(&spec), &mut Timeline::default())?;
    println!("tier: {}", sandbox.choice().tier);

    let mut request = ExecRequest::new(std::env::args().skip(1));
    request.timeout = Some(Duration::from_secs(10));
    let output = sandbox.output(request, b"", 1 << 20)?;
    println!("exit code: {}", output.report.exit_code());
    println!("stdout: {:?}", String::from_utf8_lossy(&output.stdout));
    println!("stderr: {:?}", String::from_utf8_lossy(&output.stderr));
    Ok(ExitCode::SUCCESS)
    // Here the sandbox ends, and nothing of it is left.
}
