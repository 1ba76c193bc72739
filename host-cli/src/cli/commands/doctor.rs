//! `sovereign doctor`: which sandboxes this machine can run, and what stands in the way of others.

use std::fmt::Write;

use serde::Serialize;

use crate::cli::args::{DoctorArgs, GlobalArgs};
use crate::cli::plan::DoctorPlan;
use crate::cli::report::{print, print_json};
use crate::cli::style::Style;
use crate::cli::system;
use crate::error::Problem;
use crate::tier::choose::{ChooseError, choose};
use crate::tier::facts::{Facts, Unavailable};
use crate::tier::{Isolation, Tier};

/// The exit code if there is no tier to run in.
const NOTHING_USABLE: u8 = 1;

/// Tells about every tier. Returns 0 if `run` would find one, else 1.
///
/// # Errors
///
/// If the configuration makes no sense, or the result cannot be written.
pub(in crate::cli) fn doctor(args: DoctorArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let plan = DoctorPlan::new(args)?;
    let facts = system::facts(&plan.image);
    let choice = choose(&plan.policy, &facts);
    let verdict = Verdict {
        usable: choice.is_ok(),
        tier: choice.as_ref().ok().map(|choice| choice.tier),
        image: system::image_lacks(&plan.image),
        tiers: rows(&facts),
    };
    if global.json {
        print_json(&verdict)?;
    } else if !global.quiet {
        print(&table(
            &verdict,
            choice.err().as_ref(),
            Style::for_stdout(global.color),
        ))?;
    }
    Ok(if verdict.usable { 0 } else { NOTHING_USABLE })
}

/// Which tiers this machine has.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Verdict<'a> {
    /// Whether `run` would find a tier.
    usable: bool,
    /// The tier that `run` would take.
    tier: Option<Tier>,
    /// Why the image that was named cannot be taken from the store, if it cannot.
    image: Option<Unavailable>,
    /// Every tier, strongest first.
    tiers: Vec<Row<'a>>,
}

/// What is to be said of one tier.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Row<'a> {
    /// The tier.
    tier: Tier,
    /// What it reaches here, or could reach elsewhere.
    isolation: Isolation,
    /// Whether it can be had.
    available: bool,
    /// Why it cannot be had, or why it reaches less than elsewhere.
    #[serde(flatten)]
    reason: Option<&'a Unavailable>,
}

fn rows(facts: &Facts) -> Vec<Row<'_>> {
    let row = |finding: &'_ crate::tier::facts::Finding| match &finding.outcome {
        Ok(isolation) => (*isolation, true),
        Err(_) => (finding.tier.strongest_isolation(), false),
    };
    facts
        .iter()
        .map(|finding| {
            let (isolation, available) = row(finding);
            let reason = finding.outcome.as_ref().err();
            let reason = reason.or(finding.shortfall.as_ref());
            Row {
                tier: finding.tier,
                isolation,
                available,
                reason,
            }
        })
        .collect()
}

fn table(verdict: &Verdict, error: Option<&ChooseError>, style: Style) -> String {
    let mut text = String::from("TIER          ISOLATION  STATE\n");
    // Writing to a string cannot fail.
    for Row {
        tier,
        isolation,
        available,
        reason,
    } in &verdict.tiers
    {
        let state = if *available {
            style.good("ready")
        } else {
            style.bad("unavailable")
        };
        let _ = write!(text, "{tier:<12}  {isolation:<9}  {state}");
        if let Some(reason) = reason {
            let _ = write!(text, ": {}", reason.cause);
            if let Some(remedy) = &reason.remedy {
                let _ = write!(text, "\n{:25}-> {remedy}", "");
            }
        }
        text.push('\n');
    }
    if let Some(reason) = &verdict.image {
        let _ = writeln!(text, "\n{}", reason.cause);
        if let Some(remedy) = &reason.remedy {
            let _ = writeln!(text, "-> {remedy}");
        }
    }
    let _ = match (verdict.tier, error) {
        (Some(tier), _) => writeln!(text, "\n`sovereign run` takes {tier}."),
        (None, Some(ChooseError::ConsentNeeded { .. })) => writeln!(
            text,
            "\n`sovereign run` has only this machine itself left, and needs your consent for it: \
             --tier local, or SOVEREIGN_ALLOW_LOCAL=1."
        ),
        (None, _) => writeln!(text, "\n`sovereign run` finds no tier on this machine."),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::policy::Policy;
    use crate::tier::facts::Finding;

    fn facts(microvm: Result<Isolation, Unavailable>) -> Facts {
        Facts::new(vec![
            Finding::new(Tier::Microvm, microvm),
            Finding::new(Tier::Docker, Err(Unavailable::not_built())),
        ])
    }

    fn denied() -> Unavailable {
        Unavailable {
            code: ErrorKind::KvmPermission,
            cause: "you are not in kvm".to_owned(),
            remedy: Some("sudo usermod".to_owned()),
        }
    }

    fn verdict(facts: &Facts) -> (Verdict<'_>, Option<ChooseError>) {
        let choice = choose(&Policy::default(), facts);
        let tier = choice.as_ref().ok().map(|choice| choice.tier);
        (
            Verdict {
                usable: choice.is_ok(),
                tier,
                image: None,
                tiers: rows(facts),
            },
            choice.err(),
        )
    }

    #[test]
    fn the_table_has_state_cause_and_remedy_of_each_tier() {
        let facts = facts(Err(denied()));
        let (verdict, error) = verdict(&facts);
        let table = table(&verdict, error.as_ref(), Style::PLAIN);
        assert!(table.contains("microvm       vm         unavailable: you are not in kvm\n"));
        assert!(table.contains("-> sudo usermod\n"));
        assert!(table.contains("docker        container  unavailable: not built"));
        assert!(table.contains("finds no tier"));
    }

    #[test]
    fn the_tier_that_would_be_taken_is_named() {
        let facts = facts(Ok(Isolation::Vm));
        let (verdict, error) = verdict(&facts);
        let table = table(&verdict, error.as_ref(), Style::PLAIN);
        assert!(
            table.contains("microvm       vm         ready\n"),
            "{table}"
        );
        assert!(table.ends_with("`sovereign run` takes microvm.\n"));
    }

    #[test]
    fn an_image_that_is_not_there_is_told_whatever_the_tiers_lack() {
        let facts = facts(Err(denied()));
        let (mut verdict, error) = verdict(&facts);
        verdict.image = Some(Unavailable {
            code: ErrorKind::NoImage,
            cause: "no image `x`".to_owned(),
            remedy: Some("did you mean `y`?".to_owned()),
        });
        let table = table(&verdict, error.as_ref(), Style::PLAIN);
        assert!(
            table.contains("\n\nno image `x`\n-> did you mean `y`?\n\n`sovereign run` finds"),
            "{table}"
        );
    }

    #[test]
    fn json_has_code_cause_and_remedy() {
        let facts = facts(Err(denied()));
        let json = serde_json::to_value(verdict(&facts).0).unwrap();
        assert_eq!(json["usable"], false);
        assert_eq!(
            json["tiers"][0],
            serde_json::json!({
                "tier": "microvm", "isolation": "vm", "available": false,
                "code": "kvm-permission", "cause": "you are not in kvm", "remedy": "sudo usermod"
            })
        );
    }
}
