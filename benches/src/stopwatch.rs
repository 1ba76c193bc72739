//! The time from the start of a process to its end.

use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::watchdog::Watchdog;

/// How long any measured process may take. In the lab a second is a thousand million instructions,
/// which take minutes there.
const DEADLINE: Duration = Duration::from_secs(10);

/// Runs a command to its end and returns how long that took and how it ended. Nothing polls: that
/// would cost the time that is measured.
///
/// # Errors
///
/// If it cannot be started, or does not end in time.
pub(crate) fn time(command: &mut Command) -> Result<(Duration, ExitStatus)> {
    command.stdin(Stdio::null());
    let started = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let watchdog = Watchdog::over(&child, DEADLINE)?;
    let status = child.wait().context("cannot wait")?;
    let took = started.elapsed();
    if watchdog.call_off()? {
        bail!("{command:?} did not end within {DEADLINE:?}");
    }
    Ok((took, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_life_of_a_process_is_measured() {
        let (took, status) = time(Command::new("sleep").arg("0.05")).unwrap();
        assert!(status.success());
        assert!(took >= Duration::from_millis(50));
    }
}
