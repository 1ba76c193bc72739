//! Deadlines in the form that the system's calls want.

use std::time::{Duration, Instant};

use rustix::event::Timespec;

/// The time that is left until a deadline, as `poll` wants it.
pub(crate) fn remaining(deadline: Instant) -> Timespec {
    timespec(deadline.saturating_duration_since(Instant::now()))
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_in_the_past_leaves_no_time() {
        let left = remaining(Instant::now());
        assert_eq!((left.tv_sec, left.tv_nsec), (0, 0));
    }

    #[test]
    fn fractions_of_a_second_are_kept() {
        let left = timespec(Duration::from_millis(1500));
        assert_eq!((left.tv_sec, left.tv_nsec), (1, 500_000_000));
    }
}
