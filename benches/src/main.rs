//! `sovereign-bench`: what a user of Sovereign feels, as a table and as JSON, on any machine.
//!
//! ```text
//!  here, if a guest can boot     ─▶ wall milliseconds
//!  here, the other tiers         ─▶ wall milliseconds, beside a bare process and Docker's commands
//!  in the lab, its clock counted ─▶ virtual milliseconds: one for a million instructions
//! ```
//!
//! Wall times of one machine cannot be compared with another's and vary by tens of per cent.
//! Virtual times repeat to a tenth of a per cent and can be compared between two VMMs, but show
//! neither the cost of a real VM exit nor caches nor disks.

mod copies;
mod crowd;
mod docker_cp;
mod firecracker;
mod huge_folder;
mod inside;
mod outside;
mod results;
mod samples;
mod stopwatch;
mod tiers;
mod watchdog;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::results::Results;

/// Measure what a user of Sovereign feels.
#[derive(Parser)]
#[command(
    name = "sovereign-bench",
    version,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    outside: OutsideArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Measure on this very machine, by its own clock.
    Here(MeasureArgs),
    /// Measure only how files go into a microVM and out of it, on this very machine.
    Copies(MeasureArgs),
    /// Measure the tiers that share this machine's kernel, beside a bare process and Docker's own
    /// commands.
    Tiers(MeasureArgs),
    /// Measure of that only how files go into a container and out of it, beside `docker cp`.
    DockerCp(MeasureArgs),
    /// Measure the local tier alone, as far confined as it is here.
    #[command(hide = true)]
    Local(MeasureArgs),
}

/// What is measured.
#[derive(Debug, Clone, Args)]
struct MeasureArgs {
    /// A Firecracker to measure beside ours.
    #[arg(long, value_name = "PATH", env = "FIRECRACKER")]
    firecracker: Option<PathBuf>,
    /// How often each start is measured.
    #[arg(long, value_name = "N", default_value_t = 10)]
    runs: u32,
    /// How much passes through a sandbox to measure its throughput.
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    stream_mib: u32,
    /// How large the file is that is copied into a guest and out of it.
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    copy_mib: u32,
    /// How often each copy is measured, after one for nothing.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    copy_rounds: u32,
    /// How large the file is that is copied on tiers that share this machine's kernel.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    file_mib: u32,
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Where it is measured.
#[derive(Debug, Args)]
struct OutsideArgs {
    #[command(flatten)]
    measure: MeasureArgs,
    /// Only in the lab, also where this machine can boot guests.
    #[arg(long)]
    lab_only: bool,
    /// Fail if a figure misses its target.
    #[arg(long)]
    gate: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sovereign-bench: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    if cli.command.is_some() {
        outside::with_programs()?;
    }
    match cli.command {
        Some(Command::Here(args)) => publish(&inside::measure(&args)?, &args),
        Some(Command::Copies(args)) => publish(&inside::copies(&args)?, &args),
        Some(Command::Tiers(args)) => publish(&tiers::measure(&args)?, &args),
        Some(Command::DockerCp(args)) => publish(&tiers::copies(&args)?, &args),
        Some(Command::Local(args)) => publish(&tiers::local(&args)?, &args),
        None => outside::run(&cli.outside),
    }
}

fn publish(results: &Results, args: &MeasureArgs) -> Result<ExitCode> {
    results.publish(args.json.as_deref())?;
    Ok(ExitCode::SUCCESS)
}
