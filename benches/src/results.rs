//! What was measured, as a table and as JSON.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::samples::Samples;

/// Everything that was measured on one machine by one clock.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    /// What the milliseconds are: `wall` or `virtual`.
    pub(crate) clock: String,
    /// What the machine says it is.
    pub(crate) machine: String,
    /// The figures.
    pub(crate) figures: Vec<Figure>,
    /// The way from the start of the process to its end, step by step.
    pub(crate) timeline: serde_json::Value,
    /// What was not measured, and why.
    pub(crate) skipped: Vec<Skipped>,
}

/// One measured thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// What it is, for people and programs.
    pub(crate) name: String,
    /// Of what: `ms`, `KiB`, `MiB/s`, `ratio`.
    pub(crate) unit: String,
    /// The middle of the measurements.
    pub(crate) median: f64,
    /// The measurements.
    pub(crate) samples: Samples,
    /// What it has to be at the most, if it has to.
    pub(crate) at_most: Option<f64>,
}

/// Something that was not measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Skipped {
    pub(crate) name: String,
    pub(crate) reason: String,
}

impl Figure {
    /// Returns whether it misses its target. One that could not be measured (NaN) does.
    pub(crate) fn misses(&self) -> bool {
        self.at_most
            .is_some_and(|most| self.median.is_nan() || self.median > most)
    }
}

impl Results {
    /// Adds a figure.
    pub(crate) fn add(&mut self, name: &str, unit: &str, values: Vec<f64>, at_most: Option<f64>) {
        let samples = Samples::new(values);
        self.figures.push(Figure {
            name: name.to_owned(),
            unit: unit.to_owned(),
            median: samples.median(),
            samples,
            at_most,
        });
    }

    /// Notes something that was not measured.
    pub(crate) fn skip(&mut self, name: &str, reason: impl Into<String>) {
        self.skipped.push(Skipped {
            name: name.to_owned(),
            reason: reason.into(),
        });
    }

    /// Prints the table, and writes the JSON if there is a place for it.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub(crate) fn publish(&self, json: Option<&Path>) -> Result<()> {
        print!("{}", self.table());
        if let Some(path) = json {
            let text = serde_json::to_string_pretty(self).context("cannot write JSON")?;
            fs::write(path, text + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    fn table(&self) -> String {
        let mut text = format!("{} ({} time)\n", self.machine, self.clock);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<52} {:>9} {:>9} {:>9}  {:<6} {:>4}  target",
            "", "least", "median", "p99", "unit", "runs"
        );
        for figure in &self.figures {
            let samples = &figure.samples;
            let target = match figure.at_most {
                Some(most) if figure.misses() => format!("at most {most}: MISSED"),
                Some(most) => format!("at most {most}: met"),
                None => String::new(),
            };
            let _ = writeln!(
                text,
                "{:<52} {:>9.2} {:>9.2} {:>9.2}  {:<6} {:>4}  {target}",
                figure.name,
                samples.least(),
                samples.median(),
                samples.percentile(99),
                figure.unit,
                samples.count()
            );
        }
        for step in self.timeline.as_array().into_iter().flatten() {
            let number = |key: &str| step[key].as_f64().unwrap_or(f64::NAN);
            let word = |key: &str| step[key].as_str().unwrap_or("?").to_owned();
            let _ = writeln!(
                text,
                "  {:>9.3} ms  +{:>8.3}  {:<7} {}",
                number("at_ms"),
                number("took_ms"),
                word("actor"),
                word("name")
            );
        }
        for Skipped { name, reason } in &self.skipped {
            let _ = writeln!(text, "skipped: {name}: {reason}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figure_beyond_its_target_is_missed_and_shown_so() {
        let mut results = Results::default();
        results.add("start", "ms", vec![44.0, 46.0, 47.0], Some(45.0));
        results.add("memory", "KiB", vec![2000.0], Some(4096.0));
        results.add("free", "ms", vec![1.0], None);
        let missed: Vec<_> = results.figures.iter().map(Figure::misses).collect();
        assert_eq!(missed, [true, false, false]);
        let table = results.table();
        assert!(table.contains("at most 45: MISSED") && table.contains("at most 4096: met"));
    }

    #[test]
    fn figure_without_samples_misses_its_target() {
        let mut results = Results::default();
        results.add("start", "ms", Vec::new(), Some(45.0));
        assert!(results.figures[0].misses());
    }

    #[test]
    fn results_survive_json() {
        let mut results = Results::default();
        results.add("start", "ms", vec![1.5], Some(45.0));
        results.skip("peer", "not given");
        let text = serde_json::to_string(&results).unwrap();
        assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results);
    }
}
