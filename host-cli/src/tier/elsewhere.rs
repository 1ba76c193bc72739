//! The tiers on a system where none of them works yet.

use super::Tier;
use super::facts::{Facts, Finding, Unavailable};

/// What is to be said of each.
#[must_use]
pub(crate) fn facts() -> Facts {
    let finding = |tier| {
        let reason = match tier {
            Tier::AppContainer if cfg!(windows) => Unavailable::not_built(),
            Tier::AppContainer => Unavailable::other_system("Windows"),
            Tier::Microvm | Tier::Docker | Tier::Podman | Tier::Local => {
                Unavailable::other_system("Linux")
            }
        };
        Finding::new(tier, Err(reason))
    };
    Facts::new(Tier::ALL.map(finding).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_has_its_reason() {
        let facts = facts();
        assert_eq!(facts.iter().count(), Tier::ALL.len());
        assert!(facts.iter().all(|finding| finding.outcome.is_err()));
    }
}
