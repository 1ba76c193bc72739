//! What the tool says about itself and its runs: JSON, timeline, doctor, help.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use sovereign_tests::call::Sovereign;

use crate::suite::{Outcome, PASSED, Suite};

pub(crate) fn add(suite: &mut Suite) {
    suite.guest(
        "report",
        &[
            ("json_of_a_success", json_of_a_success),
            (
                "json_of_a_signal_and_of_a_timeout",
                json_of_a_signal_and_of_a_timeout,
            ),
            (
                "json_of_binary_and_truncated_output",
                json_of_binary_and_truncated_output,
            ),
            ("json_of_an_engine_failure", json_of_an_engine_failure),
            ("tier_is_named_on_stderr", tier_is_named_on_stderr),
            (
                "trace_boot_shows_where_the_time_went",
                trace_boot_shows_where_the_time_went,
            ),
            ("doctor_finds_the_microvm", doctor_finds_the_microvm),
        ],
    );
    suite.host(
        "report",
        &[
            (
                "doctor_answers_within_seconds",
                doctor_answers_within_seconds,
            ),
            (
                "help_is_there_for_every_command",
                help_is_there_for_every_command,
            ),
            (
                "man_pages_and_completions_are_printed",
                man_pages_and_completions_are_printed,
            ),
            ("version_is_printed", version_is_printed),
        ],
    );
}

fn json_of_a_success(sovereign: &Sovereign) -> Outcome {
    let output = sovereign
        .run(["--json", "--", "sh", "-c", "echo out; echo err >&2"])
        .output()?;
    ensure!(output.code() == Some(0), "{output}");
    let report = output.json()?;
    ensure!(report["exit_code"] == 0, "{report}");
    ensure!(report["signal"].is_null(), "{report}");
    ensure!(
        report["timed_out"] == false && report["truncated"] == false,
        "{report}"
    );
    ensure!(
        report["stdout"] == "out\n" && report["stderr"] == "err\n",
        "{report}"
    );
    ensure!(
        report["tier"] == "microvm" && report["isolation"] == "vm",
        "{report}"
    );
    ensure!(report["error"].is_null(), "{report}");
    ensure!(report["duration_ms"].is_number(), "{report}");
    ensure!(report["passed_over"] == json!([]), "{report}");
    PASSED
}

fn json_of_a_signal_and_of_a_timeout(sovereign: &Sovereign) -> Outcome {
    let output = sovereign
        .run(["--json", "--", "sh", "-c", "kill -9 $$"])
        .output()?;
    let report = output.json()?;
    ensure!(output.code() == Some(137), "{output}");
    ensure!(
        report["exit_code"] == 137 && report["signal"] == 9,
        "{report}"
    );
    let output = sovereign
        .run(["--json", "--timeout", "1s", "--", "sleep", "100"])
        .output()?;
    let report = output.json()?;
    ensure!(output.code() == Some(124), "{output}");
    ensure!(
        report["exit_code"] == 124 && report["timed_out"] == true,
        "{report}"
    );
    PASSED
}

fn json_of_binary_and_truncated_output(sovereign: &Sovereign) -> Outcome {
    let args = [
        "--json",
        "--max-output",
        "4B",
        "--",
        "printf",
        "\\377\\376abcdef",
    ];
    let output = sovereign.run(args).output()?;
    let report = output.json()?;
    ensure!(report["stdout_encoding"] == "base64", "{report}");
    ensure!(report["stdout"] == "//5hYg==", "{report}");
    ensure!(report["truncated"] == true, "{report}");
    PASSED
}

fn json_of_an_engine_failure(sovereign: &Sovereign) -> Outcome {
    let output = sovereign
        .run(["--json", "--image", "no-such-image", "true"])
        .output()?;
    ensure!(output.code() == Some(125), "{output}");
    let report = output.json()?;
    ensure!(report["error"]["code"].is_string(), "{report}");
    let message = report["error"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("no-such-image"), "{report}");
    PASSED
}

fn tier_is_named_on_stderr(sovereign: &Sovereign) -> Outcome {
    let output = sovereign.run(["true"]).output()?;
    ensure!(output.errors().contains("microvm"), "{output}");
    ensure!(output.errors().lines().count() == 1, "{output}");
    let output = sovereign.run(["-q", "true"]).output()?;
    ensure!(output.stderr.is_empty(), "{output}");
    PASSED
}

fn trace_boot_shows_where_the_time_went(sovereign: &Sovereign) -> Outcome {
    let output = sovereign.run(["--trace-boot", "/bin/true"]).output()?;
    ensure!(output.code() == Some(0), "{output}");
    for actor in ["engine", "vmm", "guest"] {
        ensure!(
            output.errors().contains(actor),
            "{actor} is missing: {output}"
        );
    }
    PASSED
}

fn doctor_finds_the_microvm(sovereign: &Sovereign) -> Outcome {
    let output = sovereign.call(["doctor"]).output()?;
    ensure!(output.code() == Some(0), "{output}");
    ensure!(output.text().contains("microvm"), "{output}");
    PASSED
}

fn doctor_answers_within_seconds(sovereign: &Sovereign) -> Outcome {
    let output = sovereign.call(["doctor", "--json"]).output()?;
    let report = output.json()?;
    ensure!(
        report["tiers"]
            .as_array()
            .is_some_and(|tiers| !tiers.is_empty()),
        "{report}"
    );
    ensure!(output.wall < Duration::from_secs(5), "{output}");
    PASSED
}

fn help_is_there_for_every_command(sovereign: &Sovereign) -> Outcome {
    for command in ["run", "doctor", "image", "completions", "man"] {
        let output = sovereign.call([command, "--help"]).output()?;
        ensure!(output.code() == Some(0), "{output}");
        ensure!(output.text().contains("Usage: sovereign"), "{output}");
    }
    PASSED
}

fn man_pages_and_completions_are_printed(sovereign: &Sovereign) -> Outcome {
    let page = sovereign.call(["man", "run"]).output()?;
    ensure!(
        page.code() == Some(0) && page.text().contains(".TH"),
        "{page}"
    );
    for shell in ["bash", "zsh", "fish"] {
        let output = sovereign.call(["completions", shell]).output()?;
        ensure!(
            output.code() == Some(0) && output.text().contains("sovereign"),
            "{output}"
        );
    }
    PASSED
}

fn version_is_printed(sovereign: &Sovereign) -> Outcome {
    let output = sovereign.call(["--version"]).output()?;
    ensure!(
        output.text() == format!("sovereign {}", env!("CARGO_PKG_VERSION")),
        "{output}"
    );
    PASSED
}
