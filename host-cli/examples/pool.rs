//! A pool: sandboxes that are started ahead of the jobs, one for each job, none used twice.
//!
//! ```text
//! cargo build -p guest-agent -p vmm --bins          # once
//! cargo run -p sovereign --example pool -- 8
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use sovereign::error::chain;
use sovereign::{Sandbox, StartError};

/// How many sandboxes wait for a job.
const READY: usize = 2;

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
    let jobs: u32 = std::env::args()
        .nth(1)
        .map_or(Ok(4), |count| count.parse())?;
    // The channel's bound is the pool's: the thread starts the next one when one is taken.
    let (ready, pool) = sync_channel::<Result<Sandbox, StartError>>(READY - 1);
    let starter = thread::spawn(move || {
        let builder = Sandbox::builder().allow_local();
        for _ in 0..jobs {
            if ready.send(builder.start()).is_err() {
                return;
            }
        }
    });
    for job in 0..jobs {
        let mut sandbox = pool.recv()??;
        let began = Instant::now();
        let output = sandbox
            .command("sh")
            .args(["-c", "echo job $1 on $(hostname)", "sh", &job.to_string()])
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        println!("{} in {:?}", said.trim(), began.elapsed());
    }
    starter.join().map_err(|_| "the starting thread panicked")?;
    Ok(ExitCode::SUCCESS)
}
