//! Speed and memory, which regress silently if nothing holds them: `sovereign-bench` in the lab,
//! where a millisecond is a million instructions on any machine.

use std::env;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cargo::{merged, print_line, show};
use crate::report::{Report, Verdict};

const SUITE: &str = "speed, counted in the lab";

pub(crate) fn run(report: &mut Report) {
    println!("\n== speed: sovereign-bench in the lab");
    if let Err(error) = try_run(report) {
        report.add(SUITE, "measuring", Verdict::Failed(format!("{error:#}")));
    }
}

fn try_run(report: &mut Report) -> Result<()> {
    let program = env::current_exe()?.with_file_name("sovereign-bench");
    let dir = tempfile::tempdir().context("cannot make a folder")?;
    let json = dir.path().join("results.json");
    let mut command = merged(program.as_os_str());
    command
        .args(["--lab-only", "--runs", "5", "--stream-mib", "16", "--json"])
        .arg(&json);
    let transcript = show(&mut command, &mut print_line)?;
    ensure!(transcript.success, "{}", transcript.tail(20));
    let document: Value = serde_json::from_str(&fs::read_to_string(&json)?)?;
    for results in document["results"].as_array().into_iter().flatten() {
        add_results(results, report);
    }
    Ok(())
}

/// Adds the figures that have a target, and what was not measured.
fn add_results(results: &Value, report: &mut Report) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for figure in results["figures"].as_array().into_iter().flatten() {
        let Some(most) = figure["at_most"].as_f64() else {
            continue;
        };
        let unit = text(&figure["unit"]);
        let verdict = match figure["median"].as_f64() {
            Some(median) if median <= most => Verdict::Passed,
            Some(median) => {
                Verdict::Failed(format!("{median:.2} {unit}, at most {most:.2} {unit}"))
            }
            None => Verdict::Failed("not measured".to_owned()),
        };
        let name = format!("{}: at most {most:.2} {unit}", text(&figure["name"]));
        report.add(SUITE, &name, verdict);
    }
    for skipped in results["skipped"].as_array().into_iter().flatten() {
        let reason = text(&skipped["reason"]);
        report.add(SUITE, &text(&skipped["name"]), Verdict::Skipped(reason));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figure_beyond_its_target_is_a_failure_and_one_without_a_target_no_result() {
        let mut report = Report::default();
        let figure =
            |median: f64| json!({ "name": "a", "unit": "ms", "median": median, "at_most": 45.0 });
        let free = json!({ "name": "b", "unit": "ms", "median": 9.0, "at_most": null });
        add_results(
            &json!({ "figures": [figure(45.0), free.clone()] }),
            &mut report,
        );
        assert!(!report.failed());
        add_results(&json!({ "figures": [figure(45.1), free] }), &mut report);
        assert!(report.failed());
    }
}
