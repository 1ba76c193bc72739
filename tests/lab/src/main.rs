//! `sovereign-lab`: runs a program, or a shell, on a Linux host with a real `/dev/kvm`, anywhere.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use sovereign_lab::{Job, Mode, Parts, run, shell};

/// A Linux host with a real /dev/kvm under QEMU's software emulation, for one program.
#[derive(Parser)]
#[command(name = "sovereign-lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a program in the lab; its exit code becomes ours.
    Run(RunArgs),
    /// Open a shell in the lab. Ctrl-A X ends it.
    Shell(LabArgs),
    /// Download the newest kernel that the lab can run on.
    Fetch,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    lab: LabArgs,
    /// Set a variable in the program's environment.
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    /// Put what the program leaves in /out there.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// End the lab after this long.
    #[arg(long, default_value = "30m", value_parser = humantime::parse_duration)]
    deadline: Duration,
    /// End the lab when the program prints nothing for this long.
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    silence: Duration,
    /// The program and its arguments, as seen inside.
    #[arg(last = true, required = true)]
    argv: Vec<OsString>,
}

#[derive(Args)]
struct LabArgs {
    /// Bring a file or folder into the lab.
    #[arg(short, long = "file", value_name = "HERE=INSIDE", value_parser = parse_pair)]
    files: Vec<(String, String)>,
    /// Count instructions: one virtual nanosecond each. Slower.
    #[arg(long)]
    counted: bool,
    /// The lab's memory in MiB.
    #[arg(long, default_value_t = 4096)]
    memory: u32,
    /// The room on the lab's disk, in MiB, beside what is brought along. It takes up no more of this
    /// machine's than is used.
    #[arg(long, default_value_t = 2048)]
    disk: u32,
}

impl LabArgs {
    fn job(&self, argv: Vec<OsString>) -> Job {
        let mut job = Job::new(argv);
        job.files = self
            .files
            .iter()
            .map(|(from, to)| (from.into(), to.clone()))
            .collect();
        job.mode = if self.counted {
            Mode::Counted
        } else {
            Mode::Functional
        };
        job.memory_mib = self.memory;
        job.disk_mib = self.disk;
        job
    }
}

fn parse_pair(text: &str) -> Result<(String, String)> {
    let (left, right) = text.split_once('=').context("expected LEFT=RIGHT")?;
    Ok((left.to_owned(), right.to_owned()))
}

fn main() -> ExitCode {
    match execute(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sovereign-lab: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn execute(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Fetch => {
            let parts = Parts::fetch()?;
            println!("{}", parts.kernel().display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Shell(args) => {
            shell(&Parts::ensure()?, &args.job(Vec::new()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Run(args) => {
            let mut job = args.lab.job(args.argv);
            job.env = args
                .env
                .into_iter()
                .map(|(name, value)| (name, value.into()))
                .collect();
            job.out = args.out;
            job.deadline = args.deadline;
            job.silence = args.silence;
            let outcome = run(&Parts::ensure()?, &job, &mut |line| println!("{line}"))?;
            Ok(ExitCode::from(
                u8::try_from(outcome.exit_code).unwrap_or(125),
            ))
        }
    }
}
