//! A command that has ended, as cases look at it.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sovereign::{ExitReport, Output};

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) report: ExitReport,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// From request to report, as the host's clock tells it.
    pub(crate) wall: Duration,
}

impl Ended {
    pub(crate) fn new(output: Output, wall: Duration) -> Self {
        Self {
            report: output.report,
            stdout: output.stdout,
            stderr: output.stderr,
            wall,
        }
    }

    /// The exit code that a caller reports.
    pub(crate) fn code(&self) -> u8 {
        self.report.exit_code()
    }

    /// Standard output as text, without white space at its ends.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// Standard output as a number.
    pub(crate) fn number(&self) -> Result<u64> {
        self.text().parse().with_context(|| self.to_string())
    }

    /// That it succeeded and said this.
    pub(crate) fn says(&self, expected: &str) -> Result<()> {
        ensure!(
            self.code() == 0 && self.text() == expected,
            "not {expected:?}: {self}"
        );
        Ok(())
    }

    /// That it ended with this exit code.
    pub(crate) fn ends_with(&self, code: u8) -> Result<()> {
        ensure!(self.code() == code, "not exit code {code}: {self}");
        Ok(())
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 2000;
        let shown = |bytes: &[u8]| {
            let start = bytes.get(..SHOWN).unwrap_or(bytes);
            String::from_utf8_lossy(start).into_owned()
        };
        write!(
            f,
            "{:?} after {:?}, stdout {:?}, stderr {:?}",
            self.report,
            self.wall,
            shown(&self.stdout),
            shown(&self.stderr)
        )
    }
}
