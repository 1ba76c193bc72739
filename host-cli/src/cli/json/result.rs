//! The result of a command.

use std::borrow::Cow;

use agent_protocol::message::ExitReport;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use crate::cli::trace::Step;
use crate::error::Problem;
use crate::registry::{Id, Name};
use crate::tier::place::{PassedOver, Place};
use crate::tier::{Isolation, Tier};

/// A command that was run to its end, or the reason why it was not.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct RunReport<'a> {
    /// The command's exit code; 128+N if signal N ended it, 124 at the timeout, 125 if the engine
    /// failed, 126 and 127 if the command could not be executed or found.
    pub(in crate::cli) exit_code: u8,
    /// The signal that ended it.
    pub(in crate::cli) signal: Option<u8>,
    /// Whether its time was up.
    pub(in crate::cli) timed_out: bool,
    /// Whether output was dropped for `--max-output`.
    pub(in crate::cli) truncated: bool,
    /// How long it ran.
    pub(in crate::cli) duration_ms: f64,
    /// What it wrote to standard output.
    pub(in crate::cli) stdout: Cow<'a, str>,
    /// How that is told.
    pub(in crate::cli) stdout_encoding: Encoding,
    /// What it wrote to standard error.
    pub(in crate::cli) stderr: Cow<'a, str>,
    /// How that is told.
    pub(in crate::cli) stderr_encoding: Encoding,
    /// The tier that was taken, or asked for.
    pub(in crate::cli) tier: Option<Tier>,
    /// The isolation that it reached.
    pub(in crate::cli) isolation: Option<Isolation>,
    /// The stronger tiers that were not taken, and why.
    pub(in crate::cli) passed_over: &'a [PassedOver],
    /// The sandbox's id, if it has a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) id: Option<&'a Id>,
    /// The sandbox's name, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) name: Option<&'a Name>,
    /// Why there is no result.
    pub(in crate::cli) error: Option<&'a Problem>,
    /// Where the time went, with `--trace-boot`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(in crate::cli) timeline: Vec<Step>,
}

/// How bytes are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) enum Encoding {
    /// They are text.
    #[serde(rename = "utf-8")]
    Utf8,
    /// They are not: RFC 4648, section 4.
    #[serde(rename = "base64")]
    Base64,
}

/// Bytes as JSON can carry them.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) struct Bytes<'a> {
    pub(in crate::cli) text: Cow<'a, str>,
    pub(in crate::cli) encoding: Encoding,
}

impl<'a> From<&'a [u8]> for Bytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self {
                text: Cow::Borrowed(text),
                encoding: Encoding::Utf8,
            },
            Err(_) => Self {
                text: Cow::Owned(BASE64_STANDARD.encode(bytes)),
                encoding: Encoding::Base64,
            },
        }
    }
}

impl<'a> RunReport<'a> {
    /// A command that ended so in this place, having written this.
    pub(in crate::cli) fn of(
        report: &ExitReport,
        place: Option<&'a Place>,
        [stdout, stderr]: [&'a [u8]; 2],
    ) -> Self {
        let [stdout, stderr] = [Bytes::from(stdout), Bytes::from(stderr)];
        Self {
            exit_code: report.exit_code(),
            signal: report.signal,
            timed_out: report.timed_out,
            truncated: report.truncated,
            duration_ms: report.duration.as_secs_f64() * 1000.0,
            stdout: stdout.text,
            stdout_encoding: stdout.encoding,
            stderr: stderr.text,
            stderr_encoding: stderr.encoding,
            tier: place.map(|place| place.tier),
            isolation: place.map(|place| place.isolation),
            passed_over: place.map_or(&[], |place| place.passed_over.as_slice()),
            id: None,
            name: None,
            error: None,
            timeline: Vec::new(),
        }
    }

    /// A command that has no result.
    pub(in crate::cli) fn failed(problem: &'a Problem) -> Self {
        Self {
            exit_code: problem.exit_code,
            signal: None,
            timed_out: false,
            truncated: false,
            duration_ms: 0.0,
            stdout: Cow::Borrowed(""),
            stdout_encoding: Encoding::Utf8,
            stderr: Cow::Borrowed(""),
            stderr_encoding: Encoding::Utf8,
            tier: problem.tier,
            isolation: None,
            passed_over: &problem.passed_over,
            id: None,
            name: None,
            error: Some(problem),
            timeline: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::ErrorKind;

    fn report() -> ExitReport {
        ExitReport {
            code: None,
            signal: Some(9),
            timed_out: false,
            truncated: true,
            duration: Duration::from_micros(1_500),
        }
    }

    fn place() -> Place {
        Place {
            tier: Tier::Microvm,
            isolation: Isolation::Vm,
            shortfall: None,
            passed_over: Vec::new(),
        }
    }

    #[test]
    fn a_result_has_every_field_of_the_contract() {
        let place = place();
        let ran = RunReport::of(&report(), Some(&place), [b"hello\n", b""]);
        assert_eq!(
            serde_json::to_value(ran).unwrap(),
            serde_json::json!({
                "exit_code": 137, "signal": 9, "timed_out": false, "truncated": true,
                "duration_ms": 1.5, "stdout": "hello\n", "stdout_encoding": "utf-8",
                "stderr": "", "stderr_encoding": "utf-8", "tier": "microvm", "isolation": "vm",
                "passed_over": [], "error": null
            })
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_told_in_base64() {
        let told = Bytes::from(b"\xff\x00".as_slice());
        assert_eq!(
            (told.text.as_ref(), told.encoding),
            ("/wA=", Encoding::Base64)
        );
    }

    #[test]
    fn a_failure_has_the_same_shape() {
        let problem = Problem::new(ErrorKind::KvmMissing, "there is no /dev/kvm".to_owned());
        let failed = serde_json::to_value(RunReport::failed(&problem)).unwrap();
        let place = place();
        let ran = RunReport::of(&report(), Some(&place), [b"", b""]);
        let done = serde_json::to_value(ran).unwrap();
        let keys = |json: &serde_json::Value| {
            let object = json.as_object().unwrap();
            object.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(keys(&failed), keys(&done));
        assert_eq!(failed["error"]["code"], "kvm-missing");
        assert_eq!(failed["exit_code"], 125);
    }
}
