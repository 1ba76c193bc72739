//! What is known of a sandbox.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use agent_protocol::message::{ExecRequest, ExitReport};
use serde::{Deserialize, Serialize};

use super::{Id, Name};
use crate::error::Problem;
use crate::policy::Policy;
use crate::spec::SandboxSpec;
use crate::tier::place::Place;

/// The form of a record that this release writes, and the only one that it reads.
pub const FORMAT: u32 = 1;

/// What is known of a sandbox. A secret may be in its command's environment, so only its user may
/// read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// Who it is.
    pub id: Id,
    /// What it is called.
    pub name: Name,
    /// When it was entered.
    pub created: Timestamp,
    /// What it is to be.
    pub plan: Plan,
    /// The tier that it had at its first start, which it keeps.
    pub place: Option<Place>,
    /// What has become of it.
    pub status: Status,
}

/// What a sandbox is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What its user's programs find it by.
    pub labels: BTreeMap<String, String>,
    /// Which tier it may be in.
    pub policy: Policy,
    /// What it is made of.
    pub spec: SandboxSpec,
    /// What runs in it; it ends with this command. Without one it runs until it is ended.
    pub command: Option<ExecRequest>,
    /// How long it may run at the most.
    pub max_duration: Option<Duration>,
    /// How long it may run with nothing to do.
    pub idle_timeout: Option<Duration>,
    /// Whether it is removed when it ends.
    pub remove: bool,
}

/// What has become of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Status {
    /// It was never started.
    Created,
    /// It runs, if its supervisor lives.
    Running {
        /// Since when.
        since: Timestamp,
        /// The supervisor's process.
        supervisor: u32,
        /// The process that holds the sandbox.
        process: i32,
    },
    /// It has ended.
    Ended {
        /// When it began.
        began: Timestamp,
        /// When it ended.
        at: Timestamp,
        /// Why.
        ending: Ending,
    },
    /// It did not start.
    Failed {
        /// When.
        at: Timestamp,
        /// Why.
        problem: Problem,
    },
}

/// Why a sandbox ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ending", rename_all = "kebab-case")]
pub enum Ending {
    /// Its command ended.
    Command {
        /// How.
        report: ExitReport,
    },
    /// Its user stopped it.
    Stopped,
    /// Its user killed it.
    Killed,
    /// [`Plan::max_duration`] was over.
    MaxDuration,
    /// [`Plan::idle_timeout`] was over.
    IdleTimeout,
    /// The one who started it, and wanted it to end with it, is gone.
    OwnerGone,
    /// It broke.
    Broken {
        /// How.
        problem: Problem,
    },
}

/// A moment, as people write it (RFC 3339, in UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(extend("format" = "date-time")))]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(pub SystemTime);

impl Record {
    /// The record of a new sandbox.
    #[must_use]
    pub fn new(id: Id, name: Name, plan: Plan) -> Self {
        Self {
            format: FORMAT,
            id,
            name,
            created: Timestamp::now(),
            plan,
            place: None,
            status: Status::Created,
        }
    }

    /// The policy for the next start: a sandbox stays in the tier that it had, and no weaker.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let mut policy = self.plan.policy;
        if let Some(place) = &self.place {
            policy.tier = Some(place.tier);
            policy.min_isolation = policy.min_isolation.max(place.isolation);
        }
        policy
    }
}

impl Ending {
    /// In a few words, for people.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Command { report } if report.timed_out => "its command's time was up".to_owned(),
            Self::Command { report } => match (report.signal, report.code) {
                (Some(signal), _) => format!("signal {signal} ended its command"),
                (None, code) => format!("its command exited with {}", code.unwrap_or_default()),
            },
            Self::Stopped => "stopped".to_owned(),
            Self::Killed => "killed".to_owned(),
            Self::MaxDuration => "its longest duration was over (--max-duration)".to_owned(),
            Self::IdleTimeout => "it had nothing to do (--idle-timeout)".to_owned(),
            Self::OwnerGone => "the program that had started it is gone".to_owned(),
            Self::Broken { problem } => problem.message.clone(),
        }
    }

    /// The exit code that stands for it: the command's own, 124 when its time was over, 137 when it
    /// was killed, 143 when it was stopped before its command had ended, and 125 for a failure.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Command { report } => report.exit_code(),
            Self::Stopped => 143,
            Self::Killed | Self::OwnerGone => 137,
            Self::MaxDuration | Self::IdleTimeout => 124,
            Self::Broken { .. } => 125,
        }
    }
}

impl Timestamp {
    /// This moment, to the millisecond.
    #[must_use]
    pub fn now() -> Self {
        let now = SystemTime::now();
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let rest = since.subsec_nanos() % 1_000_000;
        Self(now - Duration::from_nanos(rest.into()))
    }

    /// How long ago it is.
    #[must_use]
    pub fn age(self) -> Duration {
        self.0.elapsed().unwrap_or_default()
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", humantime::format_rfc3339_millis(self.0))
    }
}

impl From<Timestamp> for String {
    fn from(timestamp: Timestamp) -> Self {
        timestamp.to_string()
    }
}

impl TryFrom<String> for Timestamp {
    type Error = humantime::TimestampError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        humantime::parse_rfc3339(&text).map(Self)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tier::{Isolation, Tier};

    pub(crate) fn record(name: &str) -> Record {
        Record::new(
            crate::registry::Registry::open("/").new_id().unwrap(),
            name.parse().unwrap(),
            Plan::default(),
        )
    }

    #[test]
    fn a_record_reads_back() {
        let mut record = record("x");
        record.plan.command = Some(ExecRequest::new([b"\xff\x00".to_vec()]));
        record.status = Status::Ended {
            began: Timestamp::now(),
            at: Timestamp::now(),
            ending: Ending::Stopped,
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }

    #[test]
    fn a_restart_keeps_the_tier_and_its_isolation() {
        let mut record = record("x");
        assert_eq!(record.policy(), Policy::default());
        record.place = Some(Place {
            tier: Tier::Docker,
            isolation: Isolation::Container,
            shortfall: None,
            passed_over: Vec::new(),
        });
        assert_eq!(record.policy().tier, Some(Tier::Docker));
        assert_eq!(record.policy().min_isolation, Isolation::Container);
    }

    #[test]
    fn moments_are_told_in_rfc_3339() {
        let moment = Timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500));
        assert_eq!(moment.to_string(), "1970-01-01T00:00:01.500Z");
        assert_eq!(Timestamp::try_from(moment.to_string()), Ok(moment));
    }
}
