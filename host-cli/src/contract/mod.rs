//! The contract of an image: what commands rely on, looked at from within, in each tier.
//!
//! ```text
//!  examine(image) ─▶ at rest   what the manifest says, against this engine            (at_rest)
//!                 ─▶ each tier two sandboxes, the commands of the checks in them      (inside)
//!                 ─▶ Report    a row for each check and tier: passed, failed, skipped
//!  build(options) ─▶ as sandbox_image::build, but what fails is not published         (publication)
//! ```
//!
//! It is written against the engine as an embedder has it, and so holds for every tier alike.

mod at_rest;
mod inside;
mod publication;

use sandbox_image::apts::environment;
use sandbox_image::progress::{Progress, Step};
use sandbox_image::{Manifest, Store, StoreError};
use serde::Serialize;

pub use self::publication::{Broken, build};

use self::inside::Place;
use crate::engine::Engine;
use crate::error::chain;
use crate::launch::Launch;
use crate::policy::Policy;
use crate::sandbox::Sandbox;
use crate::spec::SandboxSpec;
use crate::tier::Tier;
use crate::tier::facts::{Facts, Unavailable};
use crate::timeline::Timeline;

/// The check that a sandbox comes up at all.
const START: &str = "start";

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
    /// It could not be looked at, or is not promised here.
    Skipped,
}

impl Verdict {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// How a check ended, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Judgement {
    /// How.
    pub result: Verdict,
    /// What was found, or what is wrong.
    pub detail: String,
}

impl Judgement {
    pub(crate) fn passed(detail: impl Into<String>) -> Self {
        Self {
            result: Verdict::Passed,
            detail: detail.into(),
        }
    }

    /// A failure. What a program has said may have many lines; a table has room for one.
    pub(crate) fn failed(detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let lines: Vec<_> = detail.lines().map(str::trim).collect();
        Self {
            result: Verdict::Failed,
            detail: lines.join(" | "),
        }
    }

    pub(crate) fn skipped(detail: impl Into<String>) -> Self {
        Self {
            result: Verdict::Skipped,
            detail: detail.into(),
        }
    }
}

/// A check that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Row {
    /// Its name: stable, kebab-case.
    pub check: &'static str,
    /// The tier in which it was made, if it needs one.
    pub tier: Option<Tier>,
    /// How it ended.
    #[serde(flatten)]
    pub judgement: Judgement,
}

/// All checks of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Report {
    /// In the order in which they were made.
    pub rows: Vec<Row>,
}

impl Report {
    /// Whether nothing failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failures().next().is_none()
    }

    /// What failed.
    pub fn failures(&self) -> impl Iterator<Item = &Row> {
        self.rows
            .iter()
            .filter(|row| row.judgement.result == Verdict::Failed)
    }

    /// Adds a check.
    pub fn add(&mut self, check: &'static str, tier: Option<Tier>, judgement: Judgement) {
        self.rows.push(Row {
            check,
            tier,
            judgement,
        });
    }
}

/// Which tiers an examination is made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tiers<'a> {
    /// Those of these that this machine has; the others are skipped, with the reason.
    Available(&'a [Tier]),
    /// Exactly these: one that this machine does not have is a failure.
    Exactly(&'a [Tier]),
}

/// Examines an image of the user's store. The local tier, which runs no image, is examined too if it is among the tiers:
/// what runs there is nothing but the checks themselves.
///
/// # Errors
///
/// If there is no such image, or its manifest cannot be read. What is wrong with an image that can be
/// looked at is in the report.
pub fn examine(
    engine: Engine,
    image: &str,
    tiers: Tiers<'_>,
    progress: &dyn Progress,
) -> Result<Report, StoreError> {
    let manifest = Store::open_default()?.inspect(image)?;
    let mut report = Report::default();
    at_rest::check(&manifest, &mut report);
    let facts = engine.probe(image);
    let (wanted, must) = match tiers {
        Tiers::Available(wanted) => (wanted, false),
        Tiers::Exactly(wanted) => (wanted, true),
    };
    for &tier in wanted {
        match obstacle(&facts, tier) {
            None => {
                let step = Step::begin(progress, &format!("checking {image} in tier {tier}"));
                check_in(engine, image, &manifest, tier, &mut report);
                step.done();
            }
            Some(why) if must => report.add(START, Some(tier), Judgement::failed(&why.cause)),
            Some(why) if why.code == Unavailable::OTHER_SYSTEM => {}
            Some(why) => report.add(START, Some(tier), Judgement::skipped(&why.cause)),
        }
    }
    Ok(report)
}

/// Why this machine does not have a tier, if it does not.
fn obstacle(facts: &Facts, tier: Tier) -> Option<&Unavailable> {
    facts.of(tier)?.outcome.as_ref().err()
}

/// Makes all checks of one tier. Two sandboxes are needed: what must differ between any two of them
/// shows in no single one.
fn check_in(engine: Engine, image: &str, manifest: &Manifest, tier: Tier, report: &mut Report) {
    if tier == Tier::Local {
        report.add("environment", Some(tier), environment());
    }
    let mut sandboxes = Vec::new();
    for _ in 0..2 {
        match start(engine, image, tier) {
            Ok(sandbox) => sandboxes.push(sandbox),
            Err(problem) => return report.add(START, Some(tier), Judgement::failed(problem)),
        }
    }
    let [first, second] = sandboxes.as_mut_slice() else {
        return;
    };
    let isolation = first.choice().isolation;
    let detail = format!("isolation {isolation}");
    report.add(START, Some(tier), Judgement::passed(detail));
    let place = Place {
        tier,
        isolation,
        contents: manifest.rootfs.contents.as_ref(),
    };
    inside::check(first, second, &place, report);
}

/// The folder with T-APTS of the tier that runs no image.
fn environment() -> Judgement {
    let store = match Store::open_default() {
        Ok(store) => store,
        Err(error) => return Judgement::failed(chain(&error)),
    };
    match environment::ensure(&store) {
        Ok(folder) => Judgement::passed(folder.display().to_string()),
        Err(error) => Judgement::failed(chain(&error)),
    }
}

fn start(engine: Engine, image: &str, tier: Tier) -> Result<Sandbox, String> {
    let policy = Policy {
        tier: Some(tier),
        ..Policy::default()
    };
    let mut spec = SandboxSpec::default();
    image.clone_into(&mut spec.image.name);
    let started = engine.start(&policy, Launch::new(&spec), &mut Timeline::default());
    match started {
        Ok((sandbox, _)) => Ok(sandbox),
        Err(error) => Err(chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_check_is_no_failure_and_a_failed_one_is() {
        let mut report = Report::default();
        report.add("clock", None, Judgement::passed("now"));
        report.add(
            "user",
            Some(Tier::Local),
            Judgement::skipped("not promised"),
        );
        assert!(report.passed());
        report.add("tools", Some(Tier::Docker), Judgement::failed("no curl"));
        assert!(!report.passed());
        assert_eq!(report.failures().count(), 1);
    }

    #[test]
    fn a_failure_has_one_line() {
        assert_eq!(Judgement::failed("a:\n  b\nc").detail, "a: | b | c");
    }

    #[test]
    fn a_row_in_json_is_flat() {
        let mut report = Report::default();
        report.add("tools", Some(Tier::Docker), Judgement::failed("no curl"));
        assert_eq!(
            serde_json::to_value(report).unwrap(),
            serde_json::json!([{
                "check": "tools", "tier": "docker", "result": "failed", "detail": "no curl"
            }])
        );
    }
}
