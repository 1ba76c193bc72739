//! Unit tests, property tests and house rules: `cargo test`, read line by line.

use crate::cargo::{cargo, print_line, show};
use crate::report::{Report, Verdict};

/// The suite of a failure of `cargo test` itself.
const CARGO: &str = "cargo test";

/// The agent for containers: static, so that it runs in any image.
const AGENT: [&str; 6] = [
    "build",
    "-q",
    "--target",
    "x86_64-unknown-linux-musl",
    "-p",
    "guest-agent",
];

pub(crate) fn run(report: &mut Report) {
    println!(
        "\n== the agent for the tests with containers: cargo {}",
        AGENT.join(" ")
    );
    // Without it, those tests say what they lack.
    let _ = show(&mut cargo(AGENT), &mut print_line);
    println!("\n== unit tests: cargo test --workspace --no-fail-fast");
    let mut reader = Reader::default();
    let mut command = cargo(["test", "--workspace", "--no-fail-fast"]);
    let outcome = show(&mut command, &mut |line| {
        if !line.ends_with("... ok") {
            println!("{line}");
        }
        reader.read(line);
    });
    let failed = reader
        .results
        .iter()
        .any(|(_, _, verdict)| *verdict != Verdict::Passed);
    for (suite, name, verdict) in reader.results {
        report.add(&suite, &name, verdict);
    }
    match outcome {
        Ok(transcript) if !transcript.success && !failed => {
            report.add(CARGO, "build and run", Verdict::Failed(transcript.tail(40)));
        }
        Ok(_) => {}
        Err(error) => report.add(CARGO, "start", Verdict::Failed(format!("{error:#}"))),
    }
}

/// Reads what cargo and the test harness print.
#[derive(Default)]
struct Reader {
    suite: String,
    results: Vec<(String, String, Verdict)>,
}

impl Reader {
    fn read(&mut self, line: &str) {
        if let Some(suite) = suite_of(line) {
            self.suite = suite;
        } else if let Some((name, verdict)) = result_of(line) {
            self.results.push((self.suite.clone(), name, verdict));
        }
    }
}

/// Reads `Running unittests src/lib.rs (target/debug/deps/vmm-0123456789abcdef)` and
/// `Doc-tests vmm`.
fn suite_of(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(crate_name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{crate_name} (doc)"));
    }
    let (_, path) = line.strip_prefix("Running ")?.rsplit_once('(')?;
    let file = path.trim_end_matches(')').rsplit('/').next()?;
    Some(file.rsplit_once('-')?.0.to_owned())
}

/// Reads `test module::name ... ok`.
fn result_of(line: &str) -> Option<(String, Verdict)> {
    let (name, outcome) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let verdict = match outcome {
        "ok" => Verdict::Passed,
        "FAILED" => Verdict::Failed("its output is above".to_owned()),
        _ => {
            let reason = outcome.strip_prefix("ignored")?.trim_start_matches(", ");
            Verdict::Skipped(if reason.is_empty() { "ignored" } else { reason }.to_owned())
        }
    };
    Some((name.to_owned(), verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_with_the_suite_they_belong_to() {
        let mut reader = Reader::default();
        for line in [
            "     Running unittests src/lib.rs (target/debug/deps/vmm-0123456789abcdef)",
            "running 3 tests",
            "test bus::tests::overlap_is_refused ... ok",
            "test a::b ... ignored, needs a disk",
            "test a::c - should panic ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured",
            "   Doc-tests agent_protocol",
            "test src/lib.rs - frame (line 3) ... ok",
        ] {
            reader.read(line);
        }
        let shown: Vec<_> = reader
            .results
            .iter()
            .map(|(suite, name, verdict)| (suite.as_str(), name.as_str(), verdict.clone()))
            .collect();
        let skipped = Verdict::Skipped("needs a disk".to_owned());
        let failed = Verdict::Failed("its output is above".to_owned());
        assert_eq!(
            shown,
            [
                ("vmm", "bus::tests::overlap_is_refused", Verdict::Passed),
                ("vmm", "a::b", skipped),
                ("vmm", "a::c - should panic", failed),
                (
                    "agent_protocol (doc)",
                    "src/lib.rs - frame (line 3)",
                    Verdict::Passed
                ),
            ]
        );
    }
}
