//! What is meant: what was typed, together with the environment and the user's configuration.

#[cfg(target_os = "linux")]
pub(super) mod run;

use std::ffi::{OsStr, OsString};

use super::args::DoctorArgs;
use super::args::values::TierWish;
use super::config_file::{ConfigError, ConfigFile};
use crate::policy::Policy;
use crate::spec::ImageChoice;

/// The variable that gives consent to run on the host itself.
const ALLOW_LOCAL: &str = "SOVEREIGN_ALLOW_LOCAL";

/// What cannot be meant.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    /// The configuration file cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A consent that is neither yes nor no.
    #[error("{ALLOW_LOCAL}={0:?}: 1 allows to run on the host itself, 0 does not")]
    Consent(OsString),
}

/// An examination, as it is meant.
#[derive(Debug)]
pub(super) struct DoctorPlan {
    /// The sandboxes that `run` may take without further flags.
    pub(super) policy: Policy,
    /// The image that is looked for.
    pub(super) image: ImageChoice,
}

impl DoctorPlan {
    /// Finds out what is meant.
    ///
    /// # Errors
    ///
    /// If the configuration makes no sense.
    pub(super) fn new(args: DoctorArgs) -> Result<Self, PlanError> {
        let config = ConfigFile::load()?;
        let policy = Policy {
            tier: config.tier.and_then(TierWish::named),
            min_isolation: config.min_isolation.unwrap_or_default(),
            allow_local: consent(here(OsStr::new(ALLOW_LOCAL)))? || config.allow_local,
        };
        let default = ImageChoice::default();
        let image = ImageChoice {
            is_named: args.image.is_some(),
            name: args.image.or(config.image).unwrap_or(default.name),
            ..default
        };
        Ok(Self { policy, image })
    }
}

fn here(name: &OsStr) -> Option<OsString> {
    std::env::var_os(name)
}

fn consent(value: Option<OsString>) -> Result<bool, PlanError> {
    let Some(value) = value else { return Ok(false) };
    match value.as_encoded_bytes() {
        b"1" | b"true" | b"yes" => Ok(true),
        b"" | b"0" | b"false" | b"no" => Ok(false),
        _ => Err(PlanError::Consent(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consent_is_yes_or_no() {
        let consent = |value: &str| consent(Some(OsString::from(value)));
        assert!(consent("1").unwrap());
        assert!(!consent("0").unwrap());
        assert!(!consent("").unwrap());
        assert!(matches!(consent("maybe"), Err(PlanError::Consent(_))));
    }
}
