//! How the steps of a long command look: bars on a terminal, plain lines elsewhere, or nothing.

use std::collections::HashMap;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressStyle as BarStyle};
use sandbox_image::progress::{Event, Outcome, Progress, Silent, StepId, Unit};

use super::args::{GlobalArgs, ProgressStyle};
use super::legible;
use super::style::Style;

/// How often a bar that has no news shows that it is alive.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Shows progress as the user wants it, on standard error.
pub(super) fn for_user(global: GlobalArgs) -> Box<dyn Progress> {
    let bars = std::io::stderr().is_terminal();
    match global.progress {
        _ if global.quiet => Box::new(Silent),
        ProgressStyle::None => Box::new(Silent),
        ProgressStyle::Auto if bars => Box::new(Bars::new(Style::for_stderr(global.color))),
        ProgressStyle::Auto | ProgressStyle::Plain => {
            Box::new(Lines::new(std::io::stderr(), global.verbose))
        }
    }
}

/// A bar for each step that runs, and a line for each that has ended.
#[derive(Debug)]
struct Bars {
    template: Templates,
    screen: MultiProgress,
    steps: Mutex<HashMap<StepId, ProgressBar>>,
}

/// How bars look.
#[derive(Debug, Clone, Copy)]
struct Templates {
    spinner: &'static str,
    bytes: &'static str,
    items: &'static str,
}

impl Templates {
    const COLOURED: Self = Self {
        spinner: "{spinner} {prefix}  {elapsed}  {wide_msg:.dim}",
        bytes: "{spinner} {prefix}  [{bar:30}] {bytes}/{total_bytes}  {wide_msg:.dim}",
        items: "{spinner} {prefix}  [{bar:30}] {pos}/{len}  {wide_msg:.dim}",
    };
    const PLAIN: Self = Self {
        spinner: "{spinner} {prefix}  {elapsed}  {wide_msg}",
        bytes: "{spinner} {prefix}  [{bar:30}] {bytes}/{total_bytes}  {wide_msg}",
        items: "{spinner} {prefix}  [{bar:30}] {pos}/{len}  {wide_msg}",
    };
}

impl Bars {
    fn new(style: Style) -> Self {
        Self {
            template: match style.has_colours() {
                true => Templates::COLOURED,
                false => Templates::PLAIN,
            },
            screen: MultiProgress::default(),
            steps: Mutex::default(),
        }
    }
}

impl Progress for Bars {
    fn report(&self, event: &Event<'_>) {
        // What another thread did to its own bar does not concern this one.
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { id, name } => {
                let bar = self.screen.add(ProgressBar::new_spinner());
                bar.set_style(style(self.template.spinner));
                bar.set_prefix((*name).to_owned());
                bar.enable_steady_tick(TICK);
                steps.insert(*id, bar);
            }
            Event::Advanced {
                id,
                current,
                total,
                unit,
            } => {
                if let Some(bar) = steps.get(id) {
                    show_advance(bar, self.template, (*current, *total), *unit);
                }
            }
            Event::Log { id, line } => {
                if let Some(bar) = steps.get(id) {
                    bar.set_message(legible::plain(line));
                }
            }
            Event::Finished { id, outcome } => {
                if let Some(bar) = steps.remove(id) {
                    let name = bar.prefix();
                    let line = ending(&name, *outcome, bar.elapsed());
                    bar.finish_and_clear();
                    // A terminal that takes no more lines is nobody's loss.
                    let _ = self.screen.println(line);
                }
            }
        }
    }
}

fn show_advance(
    bar: &ProgressBar,
    template: Templates,
    (current, total): (u64, Option<u64>),
    unit: Unit,
) {
    if let Some(total) = total
        && bar.length() != Some(total)
    {
        bar.set_length(total);
        bar.set_style(style(match unit {
            Unit::Bytes => template.bytes,
            Unit::Items => template.items,
        }));
    }
    bar.set_position(current);
}

pub(super) fn style(template: &str) -> BarStyle {
    BarStyle::with_template(template).unwrap_or_else(|_| BarStyle::default_spinner())
}

/// A line when a step begins and one when it has ended; with details, what the tools print too.
#[derive(Debug)]
struct Lines<W> {
    state: Mutex<LinesState<W>>,
    details: bool,
}

#[derive(Debug)]
struct LinesState<W> {
    out: W,
    steps: HashMap<StepId, (String, Instant)>,
}

impl<W> Lines<W> {
    fn new(out: W, details: bool) -> Self {
        Self {
            state: Mutex::new(LinesState {
                out,
                steps: HashMap::new(),
            }),
            details,
        }
    }
}

impl<W: Write + Send + fmt::Debug> Progress for Lines<W> {
    fn report(&self, event: &Event<'_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let line = match event {
            Event::Started { id, name } => {
                state
                    .steps
                    .insert(*id, ((*name).to_owned(), Instant::now()));
                format!("{name} ...")
            }
            Event::Log { line, .. } if self.details => format!("  {}", legible::plain(line)),
            Event::Finished { id, outcome } => match state.steps.remove(id) {
                Some((name, began)) => ending(&name, *outcome, began.elapsed()),
                None => return,
            },
            Event::Log { .. } | Event::Advanced { .. } => return,
        };
        // If nobody reads it, nobody is to be told.
        let _ = writeln!(state.out, "{line}");
    }
}

pub(super) fn ending(name: &str, outcome: Outcome, took: Duration) -> String {
    match outcome {
        Outcome::Done => format!("{name}: done in {}", HumanDuration(took)),
        Outcome::UpToDate => format!("{name}: up to date"),
        Outcome::Failed => format!("{name}: failed after {}", HumanDuration(took)),
    }
}

#[cfg(test)]
mod tests {
    use sandbox_image::progress::Step;

    use super::*;

    fn lines(details: bool, work: impl FnOnce(&dyn Progress)) -> String {
        let lines = Lines::new(Vec::new(), details);
        work(&lines);
        String::from_utf8(lines.state.into_inner().unwrap().out).unwrap()
    }

    #[test]
    fn a_step_has_a_line_at_its_beginning_and_at_its_end() {
        let text = lines(false, |progress| {
            let step = Step::begin(progress, "building the guest kernel");
            step.log("CC init/main.o");
            step.advance(1, Some(2), Unit::Items);
            step.done();
            Step::begin(progress, "packing").up_to_date();
            drop(Step::begin(progress, "storing"));
        });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "building the guest kernel ...");
        assert!(
            lines[1].starts_with("building the guest kernel: done in "),
            "{text}"
        );
        assert_eq!(lines[3], "packing: up to date");
        assert!(lines[5].starts_with("storing: failed after "), "{text}");
        assert_eq!(lines.len(), 6);
    }

    #[test]
    fn details_are_passed_on_without_escapes() {
        let text = lines(true, |progress| Step::begin(progress, "s").log("a\x1b[2Jb"));
        assert!(text.contains("  a[2Jb\n"), "{text}");
    }
}
