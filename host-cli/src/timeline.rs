//! Moments on the way from the start of the engine to the end of a command.

use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::Serialize;

/// The name of the moment at which the agent's first word came.
pub const AGENT_HEARD: &str = "agent heard";

/// Moments in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeline {
    moments: Vec<Moment>,
}

/// A moment: what had just been finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// Who finished it.
    pub actor: Actor,
    /// What it was.
    pub name: String,
    /// The host's `CLOCK_MONOTONIC`, in nanoseconds.
    pub monotonic_ns: u64,
}

/// Who spends the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Actor {
    /// This process.
    Engine,
    /// The VMM process.
    Vmm,
    /// The guest: its kernel, then the agent.
    Guest,
}

impl Timeline {
    /// A timeline that begins with the start of this process, to be made as the first thing in it.
    /// The start is reckoned from the time that the process has had on a CPU so far: the kernel
    /// tells its start only to a hundredth of a second.
    #[must_use]
    pub fn of_this_process() -> Self {
        let now = monotonic_ns();
        let spent = nanoseconds(clock_gettime(ClockId::ProcessCPUTime));
        let mut timeline = Self::default();
        timeline.add(Actor::Engine, "process started", now.saturating_sub(spent));
        timeline.add(Actor::Engine, "main", now);
        timeline
    }

    /// Notes that the engine has finished something now.
    pub fn mark(&mut self, name: &str) {
        self.add(Actor::Engine, name, monotonic_ns());
    }

    /// Notes a moment. Those of other processes arrive late, so they are put in their place.
    pub fn add(&mut self, actor: Actor, name: &str, monotonic_ns: u64) {
        let at = self
            .moments
            .partition_point(|moment| moment.monotonic_ns <= monotonic_ns);
        self.moments.insert(
            at,
            Moment {
                actor,
                name: name.to_owned(),
                monotonic_ns,
            },
        );
    }

    /// Notes moments of the guest, told by its own clock. A guest's clock does not start with its
    /// first instruction, so it is aligned by its last moment, which is when it spoke to us.
    pub fn add_guest(&mut self, moments: &[(String, u64)], heard_at_ns: u64) {
        let Some(last) = moments.last().map(|(_, boottime_ns)| *boottime_ns) else {
            return;
        };
        for (name, boottime_ns) in moments {
            let before = last.saturating_sub(*boottime_ns);
            self.add(Actor::Guest, name, heard_at_ns.saturating_sub(before));
        }
    }

    /// The moments, in order.
    #[must_use]
    pub fn moments(&self) -> &[Moment] {
        &self.moments
    }
}

/// The host's `CLOCK_MONOTONIC`, in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

fn nanoseconds(time: Timespec) -> u64 {
    let nanoseconds = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    u64::try_from(nanoseconds).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(timeline: &Timeline) -> Vec<&str> {
        timeline
            .moments()
            .iter()
            .map(|moment| moment.name.as_str())
            .collect()
    }

    #[test]
    fn late_news_are_put_in_their_place() {
        let mut timeline = Timeline::default();
        timeline.add(Actor::Engine, "spawned", 10);
        timeline.add(Actor::Engine, "ready", 50);
        timeline.add(Actor::Vmm, "memory", 20);
        timeline.add(Actor::Vmm, "same time as ready, told later", 50);
        assert_eq!(
            names(&timeline),
            [
                "spawned",
                "memory",
                "ready",
                "same time as ready, told later"
            ]
        );
    }

    #[test]
    fn the_guests_clock_is_aligned_by_its_last_word() {
        let mut timeline = Timeline::default();
        timeline.add(Actor::Engine, "first instruction", 1_000);
        let moments = [("init".to_owned(), 300), ("serving".to_owned(), 450)];
        timeline.add_guest(&moments, 2_000);
        let times: Vec<_> = timeline.moments().iter().map(|m| m.monotonic_ns).collect();
        assert_eq!(times, [1_000, 1_850, 2_000]);
    }

    #[test]
    fn marks_do_not_go_back_in_time() {
        let mut timeline = Timeline::default();
        timeline.mark("one");
        timeline.mark("two");
        assert_eq!(names(&timeline), ["one", "two"]);
    }
}
