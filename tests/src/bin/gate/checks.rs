//! The checks that are one result each: formatting, lints, documentation, licences.

use std::path::Path;

use crate::cargo::{cargo, merged, print_line, show};
use crate::report::{Report, Verdict};

const SUITE: &str = "checks";

/// What cargo-deny says when it cannot get the database of advisories.
const NO_ADVISORIES: &[&str] = &[
    "failed to fetch advisory database",
    "unable to fetch advisory",
];

pub(crate) fn run(report: &mut Report) {
    check(report, "formatting", &["fmt", "--all", "--check"]);
    check(
        report,
        "lints",
        &[
            "clippy",
            "-q",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    );
    documentation(report);
    windows(report);
    licences(report);
}

/// The target that stands for Windows, and the packages that keep to what both systems have.
const WINDOWS: &str = "x86_64-pc-windows-gnu";
const ON_WINDOWS: &[&str] = &["sovereign", "agent-protocol", "agent-client", "guest-agent"];

fn windows(report: &mut Report) {
    const NAME: &str = "compiles for Windows";
    let standard_library = show(
        merged("rustc".as_ref()).args(["--print", "target-libdir", "--target", WINDOWS]),
        &mut |_| (),
    );
    let is_there = standard_library.is_ok_and(|transcript| {
        let folder = transcript.lines.first();
        transcript.success && folder.is_some_and(|folder| Path::new(folder).is_dir())
    });
    if !is_there {
        let reason = format!("the target is not installed: rustup target add {WINDOWS}");
        report.add(SUITE, NAME, Verdict::Skipped(reason));
        return;
    }
    let mut args = vec!["clippy", "-q", "--target", WINDOWS];
    for package in ON_WINDOWS {
        args.extend(["-p", package]);
    }
    args.extend(["--", "-D", "warnings"]);
    check(report, NAME, &args);
}

/// Adds one result: whether `cargo ARGS` succeeds.
fn check(report: &mut Report, name: &str, args: &[&str]) {
    println!("\n== {name}: cargo {}", args.join(" "));
    let verdict = match show(&mut cargo(args), &mut print_line) {
        Ok(transcript) if transcript.success => Verdict::Passed,
        Ok(transcript) => Verdict::Failed(transcript.tail(30)),
        Err(error) => Verdict::Failed(format!("{error:#}")),
    };
    report.add(SUITE, name, verdict);
}

fn documentation(report: &mut Report) {
    println!("\n== documentation: cargo doc --no-deps --workspace");
    let mut command = cargo(["doc", "-q", "--no-deps", "--workspace"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    let verdict = match show(&mut command, &mut print_line) {
        Ok(transcript) if transcript.success => Verdict::Passed,
        Ok(transcript) => Verdict::Failed(transcript.tail(30)),
        Err(error) => Verdict::Failed(format!("{error:#}")),
    };
    report.add(SUITE, "documentation", verdict);
}

fn licences(report: &mut Report) {
    let installed = show(&mut cargo(["deny", "--version"]), &mut |_| ());
    if !installed.is_ok_and(|transcript| transcript.success) {
        let reason = "cargo-deny is not installed: cargo install --locked cargo-deny";
        for name in ["licences, bans and sources", "advisories"] {
            report.add(SUITE, name, Verdict::Skipped(reason.to_owned()));
        }
        return;
    }
    // Not offline: it looks at the crates of every system, and a build here fetches those of this one only.
    let args = ["deny", "--locked", "check", "licenses", "bans", "sources"];
    check(report, "licences, bans and sources", &args);
    println!("\n== advisories: cargo deny check advisories");
    let verdict = match show(&mut cargo(["deny", "check", "advisories"]), &mut |_| ()) {
        Ok(transcript) if transcript.success => Verdict::Passed,
        Ok(transcript) => advisory_verdict(&transcript.lines),
        Err(error) => Verdict::Failed(format!("{error:#}")),
    };
    report.add(SUITE, "advisories", verdict);
}

/// Tells a machine without a way to the database from a real finding.
fn advisory_verdict(lines: &[String]) -> Verdict {
    let unreachable = lines
        .iter()
        .any(|line| NO_ADVISORIES.iter().any(|sign| line.contains(sign)));
    if unreachable {
        Verdict::Skipped("the database of advisories cannot be reached from here".to_owned())
    } else {
        Verdict::Failed(lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreachable_database_is_a_skip_and_a_finding_a_failure() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let unreachable = lines("2026 [ERROR] failed to fetch advisory database https://x: io");
        assert!(matches!(
            advisory_verdict(&unreachable),
            Verdict::Skipped(_)
        ));
        let finding = lines("error[vulnerability]: a bug in a crate");
        assert!(matches!(advisory_verdict(&finding), Verdict::Failed(_)));
    }
}
