//! Commands in one sandbox, side by side.

use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use sovereign::{ExecRequest, Sandbox};

use crate::inside::milliseconds;

/// How many commands are under way at a time.
pub(crate) const WIDTHS: [usize; 3] = [1, 10, 100];

/// How many are measured at each width.
const COMMANDS: usize = 100;

/// Runs `once` so many times at a time, and returns what each took.
///
/// # Errors
///
/// If one failed.
pub(crate) fn side_by_side(
    width: usize,
    once: &(dyn Fn() -> Result<f64> + Sync),
) -> Result<Vec<f64>> {
    let start = Barrier::new(width);
    let times: Result<Vec<Vec<f64>>> = thread::scope(|scope| {
        let one_after_the_other = || {
            start.wait();
            (0..COMMANDS.div_ceil(width)).map(|_| once()).collect()
        };
        let threads: Vec<_> = (0..width)
            .map(|_| scope.spawn(one_after_the_other))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect()
    });
    Ok(times?.concat())
}

/// The round trips of `/bin/true` in a sandbox, so many at a time.
///
/// # Errors
///
/// If one failed.
pub(crate) fn in_sandbox(sandbox: &mut Sandbox, width: usize) -> Result<Vec<f64>> {
    let sandbox = Mutex::new(sandbox);
    side_by_side(width, &|| {
        let started = Instant::now();
        let mut held = sandbox.lock().unwrap_or_else(PoisonError::into_inner);
        let exec = held.exec(true_request())?;
        drop(held);
        let output = exec.output(&[], 1024)?;
        let took = started.elapsed();
        let code = output.report.code;
        ensure!(code == Some(0), "/bin/true ended with {:?}", output.report);
        Ok(milliseconds(took))
    })
}

/// A request for as little as can be done.
pub(crate) fn true_request() -> ExecRequest {
    ExecRequest {
        timeout: Some(Duration::from_secs(60)),
        ..ExecRequest::new(["/bin/true"])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn as_many_as_asked_for_are_under_way() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let times = side_by_side(10, &|| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(5));
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(1.0)
        });
        assert_eq!(times.unwrap().len(), COMMANDS);
        assert!((2..=10).contains(&most.load(Ordering::SeqCst)));
    }
}
