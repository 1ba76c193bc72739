//! Named tests, what each needs, and how they are run and reported.

use std::env;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, FormatSetting, Trial};
use serde_json::json;
use sovereign_tests::call::Sovereign;

/// What a test returns: nothing, or why it cannot run here.
pub(crate) type Outcome = Result<Verdict>;

/// How a test that did not fail ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Skipped(String),
}

/// Ends a test that cannot run here.
pub(crate) fn skip(reason: impl Into<String>) -> Outcome {
    Ok(Verdict::Skipped(reason.into()))
}

/// The end of a test that passed.
pub(crate) const PASSED: Outcome = Ok(Verdict::Passed);

/// A test: what it does with the command.
pub(crate) type Test = fn(&Sovereign) -> Outcome;

/// All tests.
pub(crate) struct Suite {
    sovereign: Sovereign,
    tests: Vec<(String, bool, Test)>,
}

impl Suite {
    pub(crate) fn new(sovereign: Sovereign) -> Self {
        Self {
            sovereign,
            tests: Vec::new(),
        }
    }

    /// Adds tests that need no guest.
    pub(crate) fn host(&mut self, module: &str, tests: &[(&str, Test)]) {
        self.add("host", module, false, tests);
    }

    /// Adds tests that need a container engine of this tier; the gate starts one for them.
    pub(crate) fn engine(&mut self, tier: &str, module: &str, tests: &[(&str, Test)]) {
        self.add(&format!("with_{tier}"), module, false, tests);
    }

    /// Adds tests that boot guests.
    pub(crate) fn guest(&mut self, module: &str, tests: &[(&str, Test)]) {
        self.add("guest", module, true, tests);
    }

    fn add(&mut self, kind: &str, module: &str, needs_guest: bool, tests: &[(&str, Test)]) {
        for (name, test) in tests {
            self.tests
                .push((format!("{kind}::{module}::{name}"), needs_guest, *test));
        }
    }

    /// Runs the tests that the arguments choose, one after the other: they measure their host.
    pub(crate) fn run(self, arguments: &Arguments) -> ExitCode {
        let mut arguments = arguments.clone();
        arguments.test_threads = Some(1);
        let json = arguments.format == Some(FormatSetting::Json);
        let obstacle = match self.sovereign.guest_obstacle() {
            Ok(obstacle) => obstacle,
            Err(error) => Some(format!("`sovereign doctor` gave no answer: {error:#}")),
        };
        let required = env::var_os("SOVEREIGN_REQUIRE_KVM").is_some_and(|value| value == "1");
        let obstacle = Arc::new(obstacle);
        let only = env::var("SOVEREIGN_E2E_ONLY").ok();
        let chosen = |name: &str| {
            only.as_ref()
                .is_none_or(|only| only.split(',').any(|chosen| chosen == name))
        };
        let tests = self.tests.into_iter().filter(|(name, ..)| chosen(name));
        let trials = tests.map(|(name, needs_guest, test)| {
            let sovereign = self.sovereign.clone();
            let obstacle = Arc::clone(&obstacle);
            let called = name.clone();
            Trial::ignorable_test(name, move || {
                let verdict = match obstacle.as_ref() {
                    Some(why) if needs_guest && required => {
                        return Err(Failed::from(format!("no guest can boot here: {why}")));
                    }
                    Some(why) if needs_guest => skip(format!("no guest can boot here: {why}")),
                    _ => test(&sovereign),
                };
                complete(&called, json, verdict)
            })
        });
        libtest_mimic::run(&arguments, trials.collect()).exit_code()
    }
}

/// Translates for the harness. Its JSON has no place for the reason of a skip, so that gets a line
/// of its own.
fn complete(name: &str, json: bool, outcome: Outcome) -> Result<Completion, Failed> {
    match outcome {
        Ok(Verdict::Passed) => Ok(Completion::Completed),
        Ok(Verdict::Skipped(reason)) => {
            if json {
                println!(
                    "{}",
                    json!({ "type": "skip", "name": name, "reason": reason })
                );
            }
            Ok(Completion::ignored_with(reason))
        }
        Err(error) => Err(Failed::from(format!("{error:#}"))),
    }
}
