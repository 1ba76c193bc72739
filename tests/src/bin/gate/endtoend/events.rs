//! What `sovereign-e2e` reports while it runs, one JSON object a line.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use crate::report::{Report, Verdict};

/// Follows a run. Lines that are no events are somebody's words, and are shown.
pub(crate) struct Events {
    /// Every test that was asked for, with its verdict once there is one.
    verdicts: BTreeMap<String, Option<Verdict>>,
    running: Option<(String, Instant)>,
    reasons: BTreeMap<String, String>,
}

impl Events {
    pub(crate) fn new(names: &[String]) -> Self {
        Self {
            verdicts: names.iter().map(|name| (name.clone(), None)).collect(),
            running: None,
            reasons: BTreeMap::new(),
        }
    }

    /// Reads a line.
    pub(crate) fn read(&mut self, line: &str) {
        let event = serde_json::from_str::<Value>(line).unwrap_or(Value::Null);
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        match (event["type"].as_str(), event["event"].as_str()) {
            (Some("suite"), _) => {}
            (Some("skip"), _) => {
                self.reasons.insert(text("name"), text("reason"));
            }
            (Some("test"), Some("started")) => {
                self.running = Some((text("name"), Instant::now()));
            }
            (Some("test"), Some("ok")) => self.ended(&text("name"), Verdict::Passed),
            (Some("test"), Some("ignored")) => {
                let name = text("name");
                let reason = self
                    .reasons
                    .remove(&name)
                    .unwrap_or_else(|| "ignored".to_owned());
                self.ended(&name, Verdict::Skipped(reason));
            }
            (Some("test"), Some(_)) => {
                let message = text("stdout");
                self.ended(&text("name"), Verdict::Failed(message));
            }
            _ => println!("        {line}"),
        }
    }

    fn ended(&mut self, name: &str, verdict: Verdict) {
        let seconds = match self.running.take() {
            Some((running, since)) if running == name => since.elapsed().as_secs_f64(),
            _ => 0.0,
        };
        let (word, detail) = match &verdict {
            Verdict::Passed => ("ok", String::new()),
            Verdict::Failed(message) => ("FAILED", format!("\n        {message}")),
            Verdict::Skipped(reason) => ("skipped", format!(": {reason}")),
        };
        println!("{word:>7} {name} ({seconds:.1} s){detail}");
        self.verdicts.insert(name.to_owned(), Some(verdict));
    }

    /// The tests that have no verdict yet.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        let open = self
            .verdicts
            .iter()
            .filter(|(_, verdict)| verdict.is_none());
        open.map(|(name, _)| name.clone()).collect()
    }

    /// Takes back each failure that is `spoiled`, so that its test is run again. Returns whether
    /// there was one.
    pub(crate) fn take_back(&mut self, spoiled: impl Fn(&str) -> bool) -> bool {
        let mut any = false;
        for (name, verdict) in &mut self.verdicts {
            if matches!(verdict, Some(Verdict::Failed(message)) if spoiled(message)) {
                println!("   note: {name} is no verdict, and is run again");
                *verdict = None;
                any = true;
            }
        }
        any
    }

    /// How many tests have failed.
    pub(crate) fn failures(&self) -> usize {
        let failed = |verdict: &&Option<Verdict>| matches!(verdict, Some(Verdict::Failed(_)));
        self.verdicts.values().filter(failed).count()
    }

    /// Forgets which test was running: it will be run again.
    pub(crate) fn restart(&mut self) {
        self.running = None;
    }

    /// Adds every test to the report. One without a verdict failed: the one that was running
    /// because of `end`, the others because of that one. `suite` tells to which suite a test belongs.
    pub(crate) fn finish(self, end: &str, suite: impl Fn(&str) -> String, report: &mut Report) {
        let running = self.running.map(|(name, _)| name);
        for (name, verdict) in &self.verdicts {
            let verdict = match verdict {
                Some(verdict) => verdict.clone(),
                None if running.as_ref() == Some(name) => Verdict::Failed(end.to_owned()),
                None => Verdict::Failed(match &running {
                    Some(running) => format!("did not run: {running} did not end"),
                    None => format!("did not run: {end}"),
                }),
            };
            report.add(&suite(name), name, verdict);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(names: &[&str], lines: &[&str]) -> Vec<(String, Option<Verdict>)> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut events = Events::new(&names);
        for line in lines {
            events.read(line);
        }
        events.verdicts.into_iter().collect()
    }

    #[test]
    fn verdicts_are_read_with_their_reasons() {
        let verdicts = run(
            &["a", "b", "c"],
            &[
                r#"{ "type": "suite", "event": "started", "test_count": 3 }"#,
                r#"{ "type": "test", "event": "started", "name": "a" }"#,
                r#"{ "type": "test", "name": "a", "event": "ok" }"#,
                r#"{ "type": "test", "event": "started", "name": "b" }"#,
                r#"{"name":"b","reason":"no disk","type":"skip"}"#,
                r#"{ "type": "test", "name": "b", "event": "ignored" }"#,
                r#"{ "type": "test", "name": "c", "event": "failed", "stdout": "Error: \"x\"" }"#,
            ],
        );
        let expected = [
            ("a".to_owned(), Some(Verdict::Passed)),
            ("b".to_owned(), Some(Verdict::Skipped("no disk".to_owned()))),
            (
                "c".to_owned(),
                Some(Verdict::Failed("Error: \"x\"".to_owned())),
            ),
        ];
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn what_has_no_verdict_can_be_run_again() {
        let names = ["a", "b"].map(str::to_owned);
        let mut events = Events::new(&names);
        events.read(r#"{ "type": "test", "event": "started", "name": "a" }"#);
        events.read(r#"{ "type": "test", "name": "a", "event": "ok" }"#);
        events.read(r#"{ "type": "test", "event": "started", "name": "b" }"#);
        assert_eq!(events.unfinished(), ["b"]);
        events.restart();
        events.read(r#"{ "type": "test", "event": "started", "name": "b" }"#);
        events.read(r#"{ "type": "test", "name": "b", "event": "ok" }"#);
        assert!(events.unfinished().is_empty());
    }

    #[test]
    fn only_spoiled_failures_are_taken_back() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let mut events = Events::new(&names);
        events.read(r#"{ "type": "test", "name": "a", "event": "ok" }"#);
        events.read(r#"{ "type": "test", "name": "b", "event": "failed", "stdout": "spoiled" }"#);
        events.read(r#"{ "type": "test", "name": "c", "event": "failed", "stdout": "wrong" }"#);
        assert_eq!(events.failures(), 2);
        assert!(events.take_back(|message| message == "spoiled"));
        assert_eq!(events.failures(), 1);
        assert_eq!(events.unfinished(), ["b"]);
        assert!(!events.take_back(|message| message == "spoiled"));
    }

    #[test]
    fn test_that_never_ended_fails_and_so_do_those_after_it() {
        let names = ["a".to_owned(), "b".to_owned()];
        let mut events = Events::new(&names);
        events.read(r#"{ "type": "test", "event": "started", "name": "a" }"#);
        let mut report = Report::default();
        events.finish(
            "the lab's job printed nothing",
            |_| "e2e".to_owned(),
            &mut report,
        );
        assert!(report.failed());
        assert!(report.has_failure_in("e2e"));
    }
}
