//! What the stages found, and how it is told.

use std::collections::BTreeMap;

/// All results, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Report {
    results: Vec<TestResult>,
}

#[derive(Debug)]
struct TestResult {
    suite: String,
    name: String,
    verdict: Verdict,
}

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    /// With the message of the failure.
    Failed(String),
    /// With the reason.
    Skipped(String),
}

impl Report {
    /// Adds a result.
    pub(crate) fn add(&mut self, suite: &str, name: &str, verdict: Verdict) {
        self.results.push(TestResult {
            suite: suite.to_owned(),
            name: name.to_owned(),
            verdict,
        });
    }

    /// Returns whether a suite has a failure.
    pub(crate) fn has_failure_in(&self, suite: &str) -> bool {
        let mut results = self.results.iter();
        results.any(|one| one.suite == suite && matches!(one.verdict, Verdict::Failed(_)))
    }

    /// The results of a suite.
    pub(crate) fn of_suite(&self, suite: &str) -> Vec<(&str, &Verdict)> {
        let results = self.results.iter().filter(|one| one.suite == suite);
        results
            .map(|one| (one.name.as_str(), &one.verdict))
            .collect()
    }

    /// Returns whether anything failed, or nothing was tested at all.
    pub(crate) fn failed(&self) -> bool {
        let (passed, failed, _) = count(&self.results);
        failed > 0 || passed == 0
    }

    /// Prints the table, the failures, the skips and, last, the counts.
    pub(crate) fn print(&self) {
        println!(
            "\n{:<28} {:>8} {:>8} {:>8}",
            "suite", "passed", "failed", "skipped"
        );
        for (suite, (passed, failed, skipped)) in self.by_suite() {
            println!("{suite:<28} {passed:>8} {failed:>8} {skipped:>8}");
        }
        self.print_details("failed", |verdict| match verdict {
            Verdict::Failed(message) => Some(message),
            _ => None,
        });
        self.print_details("skipped", |verdict| match verdict {
            Verdict::Skipped(reason) => Some(reason),
            _ => None,
        });
        let (passed, failed, skipped) = count(&self.results);
        println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    }

    fn by_suite(&self) -> BTreeMap<&str, (usize, usize, usize)> {
        let mut suites: BTreeMap<&str, Vec<&TestResult>> = BTreeMap::new();
        for result in &self.results {
            suites.entry(&result.suite).or_default().push(result);
        }
        suites
            .into_iter()
            .map(|(suite, results)| (suite, count(results)))
            .collect()
    }

    fn print_details(&self, title: &str, detail: impl Fn(&Verdict) -> Option<&String>) {
        let mut found = self
            .results
            .iter()
            .filter_map(|result| Some((&result.suite, &result.name, detail(&result.verdict)?)))
            .peekable();
        if found.peek().is_some() {
            println!("\n{title}:");
        }
        for (suite, name, text) in found {
            println!(
                "  {suite}: {name}: {}",
                text.trim().replace('\n', "\n      ")
            );
        }
    }
}

/// Counts what passed, failed and was skipped.
fn count<'a>(results: impl IntoIterator<Item = &'a TestResult>) -> (usize, usize, usize) {
    results.into_iter().fold(
        (0, 0, 0),
        |(passed, failed, skipped), result| match result.verdict {
            Verdict::Passed => (passed + 1, failed, skipped),
            Verdict::Failed(_) => (passed, failed + 1, skipped),
            Verdict::Skipped(_) => (passed, failed, skipped + 1),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_fails_the_whole() {
        let mut report = Report::default();
        assert!(report.failed(), "nothing tested is not a success");
        report.add("a", "one", Verdict::Passed);
        report.add("a", "two", Verdict::Skipped("no KVM".to_owned()));
        assert!(!report.failed());
        report.add("b", "three", Verdict::Failed("1 is not 2".to_owned()));
        assert!(report.failed());
        assert!(report.has_failure_in("b") && !report.has_failure_in("a"));
        assert_eq!(count(&report.results), (1, 1, 1));
        assert_eq!(report.by_suite()["a"], (1, 0, 1));
    }
}
