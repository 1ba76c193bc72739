//! What a CI runner does with a job: a sandbox that outlives no job, its steps one after the other,
//! their output live, and the first step that fails ends it with its exit code.
//!
//! ```text
//! cargo run -p sovereign --example ci_job -- 'uname -a' 'echo building' 'exit 3'
//! ```

use std::error::Error;
use std::io::{self, Read};
use std::process::ExitCode;
use std::time::Duration;

use sovereign::Sandbox;

fn main() -> Result<ExitCode, Box<dyn Error>> {
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
        // Both streams live; a real runner would read them in two threads.
        if let Some(mut stdout) = child.stdout.take() {
            io::copy(&mut stdout, &mut io::stdout())?;
        }
        let mut errors = Vec::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_end(&mut errors)?;
        }
        eprint!("{}", String::from_utf8_lossy(&errors));
        let code = child.wait()?.report.exit_code();
        if code != 0 {
            eprintln!("step failed with {code}");
            return Ok(ExitCode::from(code));
        }
    }
    Ok(ExitCode::SUCCESS)
}
