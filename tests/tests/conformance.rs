//! That docs/conformance.md tells of the conformance suite what its recorded results are, and that
//! these are of the suite as it is. After a change of the cases: `make conformance`.

#![expect(clippy::unwrap_used, reason = "in a test, what fails shall panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use sovereign_tests::conformance::{COLUMNS, Outcome, Results, with_table};

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn recorded() -> Results {
    Results::read(&workspace().join("docs/conformance.json")).unwrap()
}

fn cases() -> BTreeSet<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sovereign-conformance"));
    let output = command
        .args(["--tier", "local", "--list"])
        .output()
        .unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
    names
        .map(|name| name.strip_prefix("local::").unwrap().to_owned())
        .collect()
}

#[test]
fn the_page_has_the_table_of_the_recorded_results() {
    let page = fs::read_to_string(workspace().join("docs/conformance.md")).unwrap();
    let expected = with_table(&page, &recorded().table()).unwrap();
    assert!(
        page == expected,
        "docs/conformance.md is behind: run `make conformance`"
    );
}

#[test]
fn every_case_is_recorded_for_every_column_and_no_other() {
    let cases = cases();
    assert!(!cases.is_empty());
    let recorded = recorded();
    for column in COLUMNS {
        let known = recorded.column(column);
        let known: BTreeSet<_> = known
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone())
            .collect();
        let differing: Vec<_> = known.symmetric_difference(&cases).collect();
        assert!(
            differing.is_empty(),
            "{column}: run `make conformance`: {differing:?}"
        );
    }
}

#[test]
fn no_recorded_case_failed() {
    let recorded = recorded();
    for column in COLUMNS {
        for (name, outcome) in recorded.column(column).into_iter().flatten() {
            assert_ne!(*outcome, Outcome::Failed, "{column}: {name}");
        }
    }
}
