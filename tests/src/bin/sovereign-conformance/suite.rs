//! The cases, what each needs, and how they are run and reported.

use std::cell::RefCell;
use std::env;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, FormatSetting, Trial};
use serde_json::json;
use sovereign::Tier;

use crate::facts::Need;
use crate::subject::Subject;

/// What a case does with the sandboxes of a tier.
pub(crate) type Check = fn(&Subject) -> Result<()>;

/// Something that every sandbox promises.
pub(crate) struct Case {
    name: &'static str,
    needs: &'static [Need],
    check: Check,
}

/// A case that every tier has.
pub(crate) const fn case(name: &'static str, check: Check) -> Case {
    needing(name, &[], check)
}

/// A case of tiers that have these.
pub(crate) const fn needing(name: &'static str, needs: &'static [Need], check: Check) -> Case {
    Case { name, needs, check }
}

/// All cases.
#[derive(Default)]
pub(crate) struct Suite {
    cases: Vec<(&'static str, Case)>,
}

impl Suite {
    pub(crate) fn add<const N: usize>(&mut self, group: &'static str, cases: [Case; N]) {
        self.cases
            .extend(cases.into_iter().map(|case| (group, case)));
    }

    /// Runs the cases that the arguments choose on this tier, one after the other.
    pub(crate) fn run(self, tier: Tier, require: bool, arguments: &Arguments) -> Result<ExitCode> {
        let mut arguments = arguments.clone();
        arguments.test_threads = Some(1);
        let only = env::var("SOVEREIGN_E2E_ONLY").ok();
        let is_chosen = |name: &str| {
            let mut chosen = only.iter().flat_map(|only| only.split(','));
            only.is_none() || chosen.any(|chosen| chosen == name)
        };
        let json = arguments.format == Some(FormatSetting::Json);
        let trials = self.cases.into_iter().map(|(group, case)| {
            let name = format!("{tier}::{group}::{}", case.name);
            (name.clone(), case)
        });
        let trials: Vec<_> = trials
            .filter(|(name, _)| is_chosen(name))
            .map(|(name, case)| {
                let called = name.clone();
                Trial::ignorable_test(name, move || {
                    let outcome = with_subject(tier, require, |subject| {
                        let lacking = case.needs.iter().find_map(|need| subject.lacks(*need));
                        match lacking {
                            Some(reason) => Ok(Some(reason)),
                            None => (case.check)(subject).map(|()| None),
                        }
                    });
                    complete(&called, json, outcome)
                })
            })
            .collect();
        let conclusion = libtest_mimic::run(&arguments, trials);
        SUBJECT.take();
        Ok(conclusion.exit_code())
    }
}

/// The tier under test, or why it cannot be had.
type Found = Rc<Result<Subject, String>>;

thread_local! {
    /// Made for the first case; all cases run on the thread that runs the harness.
    static SUBJECT: RefCell<Option<Found>> = const { RefCell::new(None) };
}

/// The result of a case: nothing, or why this tier cannot have it.
fn with_subject(
    tier: Tier,
    require: bool,
    check: impl FnOnce(&Subject) -> Result<Option<String>>,
) -> Result<Option<String>> {
    let found = SUBJECT.with_borrow_mut(|subject| {
        let make = || Rc::new(Subject::new(tier).map_err(|error| format!("{error:#}")));
        Rc::clone(subject.get_or_insert_with(make))
    });
    match found.as_ref() {
        Ok(subject) => check(subject).map_err(|error| match subject.last_words() {
            Some(words) => error.context(words),
            None => error,
        }),
        Err(reason) if require => anyhow::bail!("no tier {tier} here: {reason}"),
        Err(reason) => Ok(Some(format!("no tier {tier} here: {reason}"))),
    }
}

/// Translates for the harness. Its JSON has no place for the reason of a skip, so that gets a line
/// of its own.
fn complete(name: &str, json: bool, outcome: Result<Option<String>>) -> Result<Completion, Failed> {
    match outcome {
        Ok(None) => Ok(Completion::Completed),
        Ok(Some(reason)) => {
            if json {
                let skip = json!({ "type": "skip", "name": name, "reason": reason });
                println!("{skip}");
            }
            Ok(Completion::ignored_with(reason))
        }
        Err(error) => Err(Failed::from(format!("{error:#}"))),
    }
}
