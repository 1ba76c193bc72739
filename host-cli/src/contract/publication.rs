//! Building with the contract in force: what fails is not published.

use sandbox_image::{BuildError, BuildOptions, Image, Progress, Refusal, Store};

use super::{Report, Row, Tiers, examine};
use crate::engine::Engine;
use crate::tier::Tier;
use crate::tier::docker::candidate::settle;

/// The tiers in which a new image is examined, as far as this machine has them.
const TIERS: [Tier; 2] = [Tier::Microvm, Tier::Docker];

/// An image does not keep its contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", listed(report))]
pub struct Broken {
    /// All that was looked at.
    pub report: Report,
}

/// Builds an image in the user's store like [`sandbox_image::build()`]. It gets its name if it keeps its contract, as far
/// as that can be told on this machine. The report is empty if nothing has changed since the image
/// was published.
///
/// # Errors
///
/// What could not be built; [`BuildError::Refused`] with [`Broken`] for an image that fails. The
/// image that had the name before stays then.
pub fn build(
    engine: Engine,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<(Image, Report), BuildError> {
    let mut report = Report::default();
    let mut examined = None;
    let mut judge = |candidate: &Image| {
        examined = Some(candidate.name.clone());
        report = examine(engine, &candidate.name, Tiers::Available(&TIERS), progress)
            .map_err(Refusal::new)?;
        if report.passed() {
            return Ok(());
        }
        Err(Refusal::new(Broken {
            report: report.clone(),
        }))
    };
    let store = Store::open_default()?;
    let built = sandbox_image::build(&store, options, &mut judge, progress);
    if let Some(candidate) = examined {
        let name = built.as_ref().ok().map(|image| image.name.as_str());
        settle(Tier::Docker, &candidate, name);
    }
    Ok((built?, report))
}

fn listed(report: &Report) -> String {
    let told = |row: &Row| {
        let tier = row
            .tier
            .map_or_else(String::new, |tier| format!(" in {tier}"));
        format!("{}{tier}: {}", row.check, row.judgement.detail)
    };
    report.failures().map(told).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Judgement;

    #[test]
    fn what_is_broken_is_named_with_its_tier() {
        let mut report = Report::default();
        report.add("clock", None, Judgement::passed("now"));
        report.add("tools", Some(Tier::Docker), Judgement::failed("no curl"));
        report.add("contents", None, Judgement::failed("no T-APTS"));
        let text = Broken { report }.to_string();
        assert_eq!(text, "tools in docker: no curl; contents: no T-APTS");
    }
}
