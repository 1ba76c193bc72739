//! What an agent host does with a tool call: code of a model's, run where it can do no harm, with its
//! result as JSON for the model.
//!
//! ```text
//! cargo build -p guest-agent -p vmm --bins          # once
//! echo 'print(sum(range(10)))' | cargo run -p sovereign --example agent_tool_call
//! ```

use std::error::Error;
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use sovereign::error::chain;
use sovereign::{Isolation, Sandbox, StartError};

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
    let mut code = String::new();
    std::io::stdin().read_to_string(&mut code)?;

    let mut sandbox = Sandbox::builder()
        .min_isolation(Isolation::Process)
        .allow_local()
        .start()?;
    let result = sandbox
        .command("python3")
        .arg("-")
        .input(code)
        .timeout(Duration::from_secs(10))
        .limit(64 << 10)
        .output();
    let answer = match result {
        Ok(output) => serde_json::json!({
            "exit_code": output.report.exit_code(),
            "timed_out": output.report.timed_out,
            "truncated": output.report.truncated,
            "stdout": String::from_utf8_lossy(&output.stdout),
            "stderr": String::from_utf8_lossy(&output.stderr),
        }),
        Err(error) => serde_json::json!({ "error": error.kind(), "message": error.to_string() }),
    };
    println!("{answer:#}");
    Ok(ExitCode::SUCCESS)
}
