//! What a CI runner does with a job: a sandbox that outlives no job, its steps one after the other,
//! their output live, and the first step that fails ends it with its exit code.
//!
//! ```text
//! cargo build -p guest-agent -p vmm --bins          # once
//! cargo run -p sovereign --example ci_job -- 'uname -a' 'echo building' 'exit 3'
//! ```

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use sovereign::error::chain;
use sovereign::{Sandbox, StartError};

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
    let mut sandbox = Sandbox::builder().allow_local().start()?;
    eprintln!("tier {}", sandbox.choice().tier);
    for step in std::env::args().skip(1) {
        eprintln!("$ {step}");
        let mut child = sandbox
            .command("sh")
            .args(["-ec", &step])
            .env("CI", "true")
            .timeout(Duration::from_secs(600))
            .spawn()?;
        child.stdin = None;
        // Both at once: a stream that nobody reads makes the command wait.
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let errors = thread::spawn(|| pass_on(stderr, io::stderr()));
        pass_on(stdout, io::stdout())?;
        errors.join().map_err(|_| "the reading thread panicked")??;
        let code = child.wait()?.report.exit_code();
        if code != 0 {
            eprintln!("step failed with {code}");
            return Ok(ExitCode::from(code));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Passes on what comes, as soon as it comes.
fn pass_on(from: Option<File>, mut to: impl Write) -> io::Result<()> {
    let mut buffer = [0; 8192];
    if let Some(mut from) = from {
        while let length @ 1.. = from.read(&mut buffer)? {
            to.write_all(buffer.get(..length).unwrap_or_default())?;
            to.flush()?;
        }
    }
    Ok(())
}
