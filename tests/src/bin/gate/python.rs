//! The tests of the Python package that every sandbox image holds, by pytest.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::cargo::{merged, show, workspace};
use crate::report::{Report, Verdict};

const SUITE: &str = "python";

/// What packs pytest.
const PACK: &str = include_str!("bundle.py");

/// The system's own interpreter comes second: distributions install pytest for that one.
const INTERPRETERS: &[&str] = &["python3", "/usr/bin/python3"];

pub(crate) fn run(report: &mut Report) {
    println!("\n== python: pytest in sandbox-image/python");
    let Some(interpreter) = INTERPRETERS.iter().find(|program| has_pytest(program)) else {
        let reason = "pytest is not installed: sudo apt-get install python3-pytest";
        report.add(SUITE, "terminai_apts", Verdict::Skipped(reason.to_owned()));
        return;
    };
    let mut command = merged(OsStr::new(interpreter));
    command
        .args([
            "-B",
            "-m",
            "pytest",
            "-v",
            "-p",
            "no:cacheprovider",
            "--color=no",
        ])
        .current_dir(workspace().join("sandbox-image/python"));
    let mut found = false;
    let outcome = show(&mut command, &mut |line| match result_of(line) {
        Some((name, verdict)) => {
            found = true;
            report.add(SUITE, &name, verdict);
        }
        None => println!("{line}"),
    });
    match outcome {
        Ok(transcript) if transcript.success && found => {}
        Ok(_) if report.has_failure_in(SUITE) => {}
        Ok(transcript) => report.add(SUITE, "pytest", Verdict::Failed(transcript.tail(30))),
        Err(error) => report.add(SUITE, "pytest", Verdict::Failed(format!("{error:#}"))),
    }
}

/// Packs pytest and the tests, for a sandbox that has neither. `None` where there is no pytest.
pub(crate) fn pack_for_sandboxes(target: &Path) -> Result<Option<PathBuf>> {
    let Some(interpreter) = INTERPRETERS.iter().find(|program| has_pytest(program)) else {
        return Ok(None);
    };
    let mut command = merged(OsStr::new(interpreter));
    command
        .args(["-c", PACK])
        .arg(workspace().join("sandbox-image/python/tests"))
        .arg(target);
    let transcript = show(&mut command, &mut |line| println!("{line}"))?;
    ensure!(
        transcript.success,
        "pytest cannot be packed:\n{}",
        transcript.tail(10)
    );
    Ok(Some(target.to_owned()))
}

fn has_pytest(program: &str) -> bool {
    let mut command = merged(OsStr::new(program));
    command.args(["-m", "pytest", "--version"]);
    show(&mut command, &mut |_| ()).is_ok_and(|transcript| transcript.success)
}

/// Reads `tests/test_read.py::test_name[case] PASSED   [ 12%]`.
fn result_of(line: &str) -> Option<(String, Verdict)> {
    if !line.starts_with("tests/") {
        return None;
    }
    let line = line.trim_end_matches(|c: char| "[] %".contains(c) || c.is_ascii_digit());
    let (name, outcome) = [" PASSED", " FAILED", " ERROR", " SKIPPED"]
        .iter()
        .find_map(|word| Some((line.split_once(word)?, *word)))
        .map(|((name, rest), word)| (name, (word.trim(), rest.trim())))?;
    let verdict = match outcome {
        ("PASSED", _) => Verdict::Passed,
        ("SKIPPED", reason) => Verdict::Skipped(reason.trim_matches(['(', ')']).to_owned()),
        _ => Verdict::Failed("its output is above".to_owned()),
    };
    Some((name.to_owned(), verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_pytest_are_read() {
        let passed = result_of("tests/test_read.py::test_lines[a b-2] PASSED         [ 12%]");
        assert_eq!(
            passed,
            Some((
                "tests/test_read.py::test_lines[a b-2]".into(),
                Verdict::Passed
            ))
        );
        let skipped = result_of("tests/test_x.py::test_y SKIPPED (runs as root)     [100%]");
        let reason = Verdict::Skipped("runs as root".to_owned());
        assert_eq!(
            skipped,
            Some(("tests/test_x.py::test_y".to_owned(), reason))
        );
        let failed = result_of("tests/test_x.py::test_y FAILED   [ 50%]")
            .unwrap()
            .1;
        assert!(matches!(failed, Verdict::Failed(_)));
        assert_eq!(result_of("collected 12 items"), None);
    }
}
