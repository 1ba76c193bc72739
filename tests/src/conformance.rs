//! The results of the conformance suite, and the table of them in docs/conformance.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What the suite is run on, strongest first: the table's columns.
pub const COLUMNS: [&str; 6] = [
    "microvm",
    "docker",
    "podman",
    "local, as root",
    "local",
    "local, unconfined",
];

/// Groups of cases, and what they are about: the table's rows.
const ROWS: [(&str, &str); 13] = [
    ("exit", "exit codes, signals, time limits"),
    ("streams", "input and output"),
    ("terminal", "terminals"),
    ("command", "arguments, environment, user"),
    ("processes", "many commands, no leftovers"),
    ("lives", "detached sandboxes: names, starts, ends"),
    ("sessions", "commands left running and come back to"),
    ("files", "files that commands see"),
    ("operations", "operations on files"),
    ("copies", "copies in, out and between"),
    ("limits", "limits of memory, CPU, processes, files"),
    ("isolation", "host and others out of reach"),
    ("kernel", "privileges, devices, kernel"),
];

/// What the table stands between in a document.
const BEGIN: &str = "<!-- conformance: written by `sovereign-gate --record` -->\n";
const END: &str = "<!-- end of conformance -->";

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As promised.
    Passed,
    /// Not as promised.
    Failed,
    /// The tier does not have what the case is about: why.
    Skipped(String),
}

/// How all cases ended, by column and by name (`group::case`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Results {
    columns: BTreeMap<String, BTreeMap<String, Outcome>>,
}

impl Results {
    /// Reads a file that [`Results::write`] has written; there are none where there is no file.
    ///
    /// # Errors
    ///
    /// If it holds anything else.
    pub fn read(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(path)?;
        serde_json::from_str(&text).with_context(|| format!("{} makes no sense", path.display()))
    }

    /// Writes them to a file.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Puts what cases of a column ended with in the place of what was known of these. What is known of
    /// others stays: a run need not be of all.
    pub fn merge(&mut self, column: &str, ran: BTreeMap<String, Outcome>) {
        self.columns
            .entry(column.to_owned())
            .or_default()
            .extend(ran);
    }

    /// Forgets the cases that the suite does not have.
    pub fn retain(&mut self, cases: &BTreeSet<String>) {
        for known in self.columns.values_mut() {
            known.retain(|name, _| cases.contains(name));
        }
    }

    /// The cases of a column.
    #[must_use]
    pub fn column(&self, column: &str) -> Option<&BTreeMap<String, Outcome>> {
        self.columns.get(column)
    }

    /// The table, with a note for each reason of a skip.
    #[must_use]
    pub fn table(&self) -> String {
        let mut notes = Vec::new();
        let mut table = format!(
            "| | {} |\n",
            COLUMNS.map(|name| format!("`{name}`")).join(" | ")
        );
        table.push_str(&format!("|---|{}\n", "---|".repeat(COLUMNS.len())));
        for (group, title) in ROWS {
            let cells = COLUMNS.map(|column| self.cell(column, group, &mut notes));
            table.push_str(&format!("| {title} | {} |\n", cells.join(" | ")));
        }
        table.push('\n');
        for (index, note) in notes.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = writeln!(table, "{}. {note}", index + 1);
        }
        table
    }

    fn cell(&self, column: &str, group: &str, notes: &mut Vec<String>) -> String {
        let Some(cases) = self.columns.get(column) else {
            return "not run".to_owned();
        };
        let of_group = || {
            cases
                .iter()
                .filter(|(name, _)| name.split("::").next() == Some(group))
                .map(|(_, outcome)| outcome)
        };
        let count = |wanted: &Outcome| of_group().filter(|outcome| *outcome == wanted).count();
        let reasons: Vec<&String> = of_group()
            .filter_map(|outcome| match outcome {
                Outcome::Skipped(reason) => Some(reason),
                Outcome::Passed | Outcome::Failed => None,
            })
            .collect();
        let mut cell = format!("{} passed", count(&Outcome::Passed));
        if count(&Outcome::Failed) > 0 {
            let _ = write!(cell, ", **{} failed**", count(&Outcome::Failed));
        }
        if !reasons.is_empty() {
            let mut numbers: Vec<usize> = reasons.iter().map(|why| number(notes, why)).collect();
            numbers.sort_unstable();
            numbers.dedup();
            let numbers: Vec<_> = numbers.iter().map(usize::to_string).collect();
            let _ = write!(
                cell,
                ", {} skipped <sup>{}</sup>",
                reasons.len(),
                numbers.join(", ")
            );
        }
        cell
    }
}

/// The number of a note; one that is new gets the next.
fn number(notes: &mut Vec<String>, note: &str) -> usize {
    let known = notes.iter().position(|known| known == note);
    known.unwrap_or_else(|| {
        notes.push(note.to_owned());
        notes.len() - 1
    }) + 1
}

/// A document with this table in the place of the one that it has.
///
/// # Errors
///
/// If it has no place for one.
pub fn with_table(document: &str, table: &str) -> Result<String> {
    let (before, rest) = document
        .split_once(BEGIN)
        .context("there is no mark where the conformance table begins")?;
    let (_, after) = rest
        .split_once(END)
        .context("there is no mark where the conformance table ends")?;
    Ok(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let skipped = || Outcome::Skipped("why".to_owned());
        let cases = [
            ("exit::a", Outcome::Passed),
            ("exit::b", Outcome::Passed),
            ("limits::a", skipped()),
            ("limits::b", Outcome::Failed),
            ("kernel::a", skipped()),
        ];
        let mut results = Results::default();
        let cases = cases.map(|(name, outcome)| (name.to_owned(), outcome));
        results.merge("docker", cases.into());
        results
    }

    #[test]
    fn table_has_counts_and_a_note_for_each_reason() {
        let table = results().table();
        assert!(
            table.contains("time limits | not run | 2 passed | not run |"),
            "{table}"
        );
        let limits = "| 0 passed, **1 failed**, 1 skipped <sup>1</sup> |";
        assert!(table.contains(limits), "{table}");
        assert!(table.ends_with("\n1. why\n"), "{table}");
    }

    #[test]
    fn what_did_not_run_stays_and_what_is_no_more_goes() {
        let mut results = results();
        let again = [
            ("limits::b".to_owned(), Outcome::Passed),
            ("limits::c".to_owned(), Outcome::Failed),
        ];
        results.merge("docker", again.into());
        results.merge("podman", [("exit::a".to_owned(), Outcome::Passed)].into());
        let cases = ["exit::a", "limits::a", "limits::b", "limits::c"].map(str::to_owned);
        results.retain(&cases.into());
        let known = |column: &str| results.column(column).unwrap().clone();
        let expected = [
            ("exit::a", Outcome::Passed),
            ("limits::a", Outcome::Skipped("why".to_owned())),
            ("limits::b", Outcome::Passed),
            ("limits::c", Outcome::Failed),
        ]
        .map(|(name, outcome)| (name.to_owned(), outcome));
        assert_eq!(known("docker"), expected.into());
        assert_eq!(known("podman").len(), 1);
    }

    #[test]
    fn table_goes_between_its_marks_and_stays_there() {
        let document = format!("a\n{BEGIN}old\n{END}\nb\n");
        let once = with_table(&document, "new\n").unwrap();
        assert!(once.starts_with("a\n") && once.ends_with(&format!("new\n\n{END}\nb\n")));
        assert_eq!(with_table(&once, "new\n").unwrap(), once);
        assert!(with_table("a\n", "new\n").is_err());
    }

    #[test]
    fn results_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        assert_eq!(Results::read(&path).unwrap(), Results::default());
        results().write(&path).unwrap();
        assert_eq!(Results::read(&path).unwrap(), results());
    }
}
