//! `sovereign-gate`: everything that has to pass, in one report.
//!
//! Runs the stages one after the other, each to its end whatever came before, and closes with a
//! table, the names of what failed and of what was skipped (with reasons), and one line of counts.
//!
//! ```text
//!  format · clippy · docs · licences ─┐
//!  unit tests, house rules ───────────┼─▶ Report ─▶ table, failures, skips, "N passed, ..."
//!  end-to-end: this machine, or lab ──┤
//!  speed: lab, instructions counted ──┘
//! ```

mod cargo;
mod checks;
mod endtoend;
mod python;
mod report;
mod screen;
mod speed;
mod units;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::report::Report;

/// Run everything that has to pass.
#[derive(Parser)]
#[command(name = "sovereign-gate", version)]
struct Cli {
    /// Run only these stages.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Stage>,
    /// Run only the end-to-end tests whose names contain this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Write the conformance suite's results to docs/conformance.json and docs/conformance.md.
    #[arg(long)]
    record: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Formatting, lints, documentation, licences.
    Checks,
    /// Unit tests, property tests and house rules.
    Units,
    /// The tests of the sandbox's Python package.
    Python,
    /// End-to-end tests and the conformance suite, here and, where no guest can boot, in the lab.
    Endtoend,
    /// Of these the conformance suite alone.
    Conformance,
    /// Speed and memory against their targets, in the lab.
    Speed,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let wanted = |stage| cli.only.is_empty() || cli.only.contains(&stage);
    let mut report = Report::default();
    if wanted(Stage::Checks) {
        checks::run(&mut report);
    }
    if wanted(Stage::Units) {
        units::run(&mut report);
    }
    if wanted(Stage::Python) {
        python::run(&mut report);
    }
    if wanted(Stage::Endtoend) || wanted(Stage::Conformance) {
        let chosen = |name: &str| {
            let filter = cli.filter.as_deref();
            (wanted(Stage::Endtoend) || endtoend::is_of_conformance(name))
                && filter.is_none_or(|filter| name.contains(filter))
        };
        endtoend::run(&chosen, &mut report);
    }
    if wanted(Stage::Speed) {
        speed::run(&mut report);
    }
    report.print();
    if cli.record
        && let Err(error) = endtoend::record(&report)
    {
        eprintln!("sovereign-gate: {error:#}");
    }
    if report.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
