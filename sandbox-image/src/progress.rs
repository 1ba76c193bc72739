//! How long-running work tells what it is doing.
//!
//! Builders report [`Event`]s; whoever started them decides how these look (a progress bar, plain
//! lines, nothing). No terminal code lives here. Builders do not make events by hand: they hold a
//! [`Step`], which reports its beginning and its end, also when an error ends it early.
//!
//! ```text
//!  Step::begin ──▶ Started ──▶ Advanced*, Log* ──▶ Finished(Done | UpToDate)
//!                                   └── dropped ──▶ Finished(Failed)
//! ```

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Receives what builders report. Called from the thread that does the work.
pub trait Progress: fmt::Debug + Send + Sync {
    /// Takes note of an event. Must return soon: the work waits for it.
    fn report(&self, event: &Event<'_>);
}

/// Names one step in the events of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StepId(u64);

/// What happened in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A step began.
    Started {
        /// The step.
        id: StepId,
        /// What it does, for people: `building the guest kernel`.
        name: &'a str,
    },
    /// A step got on.
    Advanced {
        /// The step.
        id: StepId,
        /// How far it is, in `unit`s.
        current: u64,
        /// Where it ends, where that is known.
        total: Option<u64>,
        /// What is counted.
        unit: Unit,
    },
    /// A line of detail: what a tool printed, or what is waited for.
    Log {
        /// The step.
        id: StepId,
        /// The line, without its end.
        line: &'a str,
    },
    /// A step ended.
    Finished {
        /// The step.
        id: StepId,
        /// How.
        outcome: Outcome,
    },
}

/// What a step counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things done: files compiled, packages installed.
    Items,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The work was done.
    Done,
    /// Nothing was to do: an earlier result still holds.
    UpToDate,
    /// The work failed; the error says why.
    Failed,
}

/// Reports nothing to nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _event: &Event<'_>) {}
}

/// One step of work under way. Dropped without [`Step::done`] or [`Step::up_to_date`], it failed.
pub struct Step<'p> {
    progress: &'p dyn Progress,
    id: StepId,
    outcome: Outcome,
}

impl<'p> Step<'p> {
    /// Begins a step.
    pub fn begin(progress: &'p dyn Progress, name: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = StepId(NEXT.fetch_add(1, Ordering::Relaxed));
        progress.report(&Event::Started { id, name });
        Self {
            progress,
            id,
            outcome: Outcome::Failed,
        }
    }

    /// Says how far the step is.
    pub fn advance(&self, current: u64, total: Option<u64>, unit: Unit) {
        self.progress.report(&Event::Advanced {
            id: self.id,
            current,
            total,
            unit,
        });
    }

    /// Passes on a line of detail.
    pub fn log(&self, line: &str) {
        self.progress.report(&Event::Log { id: self.id, line });
    }

    /// Ends the step: the work was done.
    pub fn done(mut self) {
        self.outcome = Outcome::Done;
    }

    /// Ends the step: nothing was to do.
    pub fn up_to_date(mut self) {
        self.outcome = Outcome::UpToDate;
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.progress.report(&Event::Finished {
            id: self.id,
            outcome: self.outcome,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default, Debug)]
    struct Recorder(Mutex<Vec<String>>);

    impl Progress for Recorder {
        fn report(&self, event: &Event<'_>) {
            let text = match event {
                Event::Started { name, .. } => format!("started {name}"),
                Event::Advanced { current, total, .. } => format!("{current} of {total:?}"),
                Event::Log { line, .. } => format!("log {line}"),
                Event::Finished { outcome, .. } => format!("{outcome:?}"),
            };
            self.0.lock().unwrap().push(text);
        }
    }

    #[test]
    fn finished_step_reports_its_way() {
        let recorder = Recorder::default();
        let step = Step::begin(&recorder, "packing");
        step.advance(1, Some(2), Unit::Items);
        step.log("half way");
        step.done();
        assert_eq!(
            *recorder.0.lock().unwrap(),
            ["started packing", "1 of Some(2)", "log half way", "Done"]
        );
    }

    #[test]
    fn dropped_step_reports_failure() {
        let recorder = Recorder::default();
        drop(Step::begin(&recorder, "packing"));
        assert_eq!(*recorder.0.lock().unwrap(), ["started packing", "Failed"]);
    }
}
