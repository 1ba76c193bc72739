//! The timeline of a run, as a table and as JSON.

use std::fmt::Write;

use agent_client::Finished;
use serde::Serialize;

use crate::timeline::{AGENT_HEARD, Actor, Moment, Timeline, monotonic_ns};

/// One step of a timeline.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Step {
    /// Who did it.
    actor: Actor,
    /// What was finished.
    name: String,
    /// When it was finished, in milliseconds after the process started.
    at_ms: f64,
    /// How long after the step before it, in milliseconds.
    took_ms: f64,
    /// Its share of the whole, in per cent.
    percent: f64,
}

/// Notes what the session knows: the moments of the agent's start, and of the command.
pub(super) fn note_session(timeline: &mut Timeline, finished: &Finished) {
    let heard = timeline
        .moments()
        .iter()
        .find(|moment| moment.name == AGENT_HEARD);
    let heard = heard.map_or_else(monotonic_ns, |moment| moment.monotonic_ns);
    let trace = finished.agent.trace.iter();
    let trace: Vec<_> = trace
        .map(|point| (point.name.clone(), point.boottime_ns))
        .collect();
    timeline.add_guest(&trace, heard);
    for (name, instant) in [
        ("command started", finished.moments.started),
        ("command exited", finished.moments.ended),
    ] {
        let age = u64::try_from(instant.elapsed().as_nanos()).unwrap_or(u64::MAX);
        timeline.add(Actor::Engine, name, monotonic_ns().saturating_sub(age));
    }
}

/// The steps between the moments.
pub(super) fn steps(timeline: &Timeline) -> Vec<Step> {
    let moments = timeline.moments();
    let (Some(first), Some(last)) = (moments.first(), moments.last()) else {
        return Vec::new();
    };
    let whole = milliseconds(first, last).max(f64::MIN_POSITIVE);
    let mut before = first;
    let mut steps = Vec::with_capacity(moments.len());
    for moment in moments {
        let took_ms = milliseconds(before, moment);
        steps.push(Step {
            actor: moment.actor,
            name: moment.name.clone(),
            at_ms: milliseconds(first, moment),
            took_ms,
            percent: took_ms / whole * 100.0,
        });
        before = moment;
    }
    steps
}

/// The steps as a table for people.
pub(super) fn table(steps: &[Step]) -> String {
    let mut text = String::from("      at ms    took ms      %  who     what\n");
    for Step {
        actor,
        name,
        at_ms,
        took_ms,
        percent,
    } in steps
    {
        let actor = match actor {
            Actor::Engine => "engine",
            Actor::Vmm => "vmm",
            Actor::Guest => "guest",
        };
        let name: String = name.chars().filter(|c| !c.is_control()).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{at_ms:>11.3} {took_ms:>10.3} {percent:>6.1}  {actor:<7} {name}"
        );
    }
    text
}

fn milliseconds(from: &Moment, to: &Moment) -> f64 {
    let nanoseconds = to.monotonic_ns.saturating_sub(from.monotonic_ns);
    std::time::Duration::from_nanos(nanoseconds).as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_add_up_to_the_whole() {
        let mut timeline = Timeline::default();
        timeline.add(Actor::Engine, "process started", 1_000_000);
        timeline.add(Actor::Vmm, "memory", 2_000_000);
        timeline.add(Actor::Guest, "init\x1b[31m", 5_000_000);
        let steps = steps(&timeline);
        let took: Vec<_> = steps.iter().map(|step| step.took_ms).collect();
        assert_eq!(took, [0.0, 1.0, 3.0]);
        assert!((steps.iter().map(|step| step.percent).sum::<f64>() - 100.0).abs() < 1e-9);
        let table = table(&steps);
        assert_eq!(table.lines().count(), 4);
        assert!(!table.contains('\x1b'));
    }

    #[test]
    fn an_empty_timeline_has_no_steps() {
        assert_eq!(steps(&Timeline::default()), []);
    }
}
