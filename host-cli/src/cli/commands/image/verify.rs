//! `sovereign image verify`: whether an image is what was stored, and keeps its contract.

use std::fmt::Write;

use sandbox_image::Store;
use sandbox_image::progress::Step;
use serde::Serialize;

use crate::cli::args::{GlobalArgs, VerifyArgs};
use crate::cli::progress;
use crate::cli::report::{print, print_json};
use crate::cli::style::Style;
use crate::contract::{Judgement, Report, Tiers, Verdict, examine};
use crate::engine::Engine;
use crate::error::Problem;
use crate::tier::Tier;

/// The exit code if a check failed.
const BROKEN: u8 = 1;

/// What an image is found to be.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Verified<'a> {
    /// Its name.
    name: &'a str,
    /// Its id: the SHA-256 of its manifest.
    id: &'a str,
    /// Whether every file is what was stored. If not, there is an error instead of this.
    intact: bool,
    /// Whether no check failed.
    passed: bool,
    /// Every check, by tier.
    checks: &'a Report,
}

/// Tells about an image. Returns 0 if nothing is wrong with it, else 1.
///
/// # Errors
///
/// If there is no such image, one of its files is damaged, or the result cannot be written.
pub(super) fn verify(store: &Store, args: &VerifyArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let progress = progress::for_user(global);
    let step = Step::begin(
        progress.as_ref(),
        &format!("hashing the files of {}", args.name),
    );
    let image = store.verify(&args.name)?;
    step.done();
    let mut report = Report::default();
    report.add(
        "files",
        None,
        Judgement::passed("every file is what was stored"),
    );
    let tiers = if args.tiers.is_empty() {
        Tiers::Available(&Tier::ALL)
    } else {
        Tiers::Exactly(&args.tiers)
    };
    let examined = examine(Engine::new(), &args.name, tiers, progress.as_ref())?;
    report.rows.extend(examined.rows);
    if global.json {
        print_json(&Verified {
            name: &image.name,
            id: &image.id,
            intact: true,
            passed: report.passed(),
            checks: &report,
        })?;
    } else if !global.quiet {
        print(&table(&report, Style::for_stdout(global.color)))?;
    }
    Ok(if report.passed() { 0 } else { BROKEN })
}

fn table(report: &Report, style: Style) -> String {
    let mut text = String::from("CHECK            TIER     RESULT   DETAIL\n");
    for row in &report.rows {
        let tier = row.tier.map_or("-", Tier::name);
        // Colours have no width, so the word is padded first.
        let word = format!("{:<7}", row.judgement.result.name());
        let word = match row.judgement.result {
            Verdict::Passed => style.good(&word),
            Verdict::Failed => style.bad(&word),
            Verdict::Skipped => word,
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<15}  {tier:<7}  {word}  {}",
            row.check, row.judgement.detail
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_check() {
        let mut report = Report::default();
        report.add("files", None, Judgement::passed("good"));
        report.add("tools", Some(Tier::Microvm), Judgement::failed("no curl"));
        assert_eq!(
            table(&report, Style::PLAIN),
            "CHECK            TIER     RESULT   DETAIL\n\
             files            -        passed   good\n\
             tools            microvm  failed   no curl\n"
        );
    }
}
