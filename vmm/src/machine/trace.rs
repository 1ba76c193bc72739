//! Where the time until the guest's first instruction goes.

use rustix::time::{ClockId, clock_gettime};

use crate::control::TracePoint;

/// The steps done so far.
#[derive(Debug, Default)]
pub struct Trace {
    points: Vec<TracePoint>,
}

impl Trace {
    /// Notes that a step is done.
    pub fn mark(&mut self, name: &str) {
        let now = clock_gettime(ClockId::Monotonic);
        // The clock starts at boot: neither part is negative, nor does it last 584 years.
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
        let monotonic_ns = seconds
            .wrapping_mul(1_000_000_000)
            .wrapping_add(nanoseconds);
        self.points.push(TracePoint {
            name: name.to_owned(),
            monotonic_ns,
        });
    }

    /// All steps, first to last.
    #[must_use]
    pub fn into_points(self) -> Vec<TracePoint> {
        self.points
    }
}
