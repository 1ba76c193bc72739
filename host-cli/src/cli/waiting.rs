//! One thing that takes its time: a spinner or a bar on a terminal for as long as it lasts, lines if
//! those are asked for, and nothing elsewhere.

use std::io::IsTerminal;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use agent_client::Meter;
use indicatif::ProgressBar;
use sandbox_image::progress::{Event, Outcome, Progress};

use super::args::{GlobalArgs, ProgressStyle};
use super::legible::plain;
use super::progress::{TICK, ending, style};
use super::report::say;

/// What ends sooner than this needs no spinner, if it mostly does.
const SOON: Duration = Duration::from_secs(1);

/// What is waited for, nobody knows how long.
const SPINNER: &str = "{spinner} {prefix}  {elapsed}";
/// A step of it that moves bytes, of so many.
const STEP_OF: &str = "{spinner} {prefix}  [{bar:25}] {binary_bytes}/{binary_total_bytes}";
/// What is moved, nobody knows how much. The numbers come first: a long name is cut at the terminal's
/// edge.
const MOVING: &str = "{spinner} {binary_bytes}  {binary_bytes_per_sec}  {elapsed}  {wide_msg}";
/// What is moved, of so much.
const MOVING_OF: &str = "{spinner} [{bar:25}] {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta}  {wide_msg}";

/// Something that takes its time, and is shown while this lives.
#[derive(Debug)]
pub(super) struct Waiting {
    shown: Shown,
    line: Option<(String, Instant)>,
}

/// What a terminal has of it.
#[derive(Debug)]
enum Shown {
    Nothing,
    Bar(ProgressBar),
    /// A spinner that comes when it has taken a while: whoever has the sender ends it by dropping it.
    Later(Sender<News>, JoinHandle<()>),
}

/// What a late spinner is told.
#[derive(Debug)]
enum News {
    /// A step has begun.
    Step(String),
    /// It is so far, of so much.
    Advanced(u64, Option<u64>),
    /// It has ended.
    Ended,
}

impl Waiting {
    /// What seldom takes its time: nothing is shown before it does. Steps of it that are reported have
    /// its place while they last.
    pub(super) fn late(global: GlobalArgs, what: &str) -> Self {
        Self::shown(global, what, || {
            let (sender, receiver) = mpsc::channel();
            let what = what.to_owned();
            let show = move || show_late(&what, SOON, &receiver, spinner);
            let thread = thread::Builder::new().name("late-spinner".to_owned());
            thread
                .spawn(show)
                .map_or(Shown::Nothing, |thread| Shown::Later(sender, thread))
        })
    }

    /// What moves bytes, which [`meter`](Self::meter) counts.
    pub(super) fn moving(global: GlobalArgs, what: &str) -> Self {
        Self::shown(global, what, || Shown::Bar(moving(what)))
    }

    fn shown(global: GlobalArgs, what: &str, show: impl FnOnce() -> Shown) -> Self {
        let told = !global.quiet;
        let is_plain = told && global.progress == ProgressStyle::Plain;
        if is_plain {
            say(&format!("{what} ...\n"));
        }
        let spins = told && global.progress == ProgressStyle::Auto;
        let is_shown = spins && std::io::stderr().is_terminal();
        Self {
            shown: if is_shown { show() } else { Shown::Nothing },
            line: is_plain.then(|| (what.to_owned(), Instant::now())),
        }
    }

    /// What counts the bytes, if they are shown.
    pub(super) fn meter(&self) -> Option<Meter> {
        let Shown::Bar(bar) = &self.shown else {
            return None;
        };
        let bar = bar.clone();
        Some(Meter::new(move |bytes| bar.inc(bytes)))
    }

    /// Who is told how many bytes it will be, if they are shown.
    pub(super) fn total(&self) -> Option<impl FnOnce(u64) + use<>> {
        let Shown::Bar(bar) = &self.shown else {
            return None;
        };
        let bar = bar.clone();
        Some(move |total| {
            bar.set_length(total);
            bar.set_style(style(MOVING_OF).progress_chars("=> "));
        })
    }

    /// It has ended well, or not.
    pub(super) fn end(self, outcome: Outcome) {
        match self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.finish_and_clear(),
            Shown::Later(sender, thread) => {
                drop(sender);
                // It only shows something.
                let _ = thread.join();
            }
        }
        if let Some((what, began)) = self.line {
            say(&(ending(&what, outcome, began.elapsed()) + "\n"));
        }
    }

    /// It has ended, as this says.
    pub(super) fn end_as<T, E>(self, outcome: &Result<T, E>) {
        self.end(match outcome {
            Ok(_) => Outcome::Done,
            Err(_) => Outcome::Failed,
        });
    }
}

impl Progress for Waiting {
    fn report(&self, event: &Event<'_>) {
        let news = match event {
            Event::Started { name, .. } => News::Step(plain(name)),
            Event::Advanced { current, total, .. } => News::Advanced(*current, *total),
            Event::Finished { .. } => News::Ended,
            Event::Log { .. } => return,
        };
        match (&self.shown, news) {
            // Who does not show it any more needs no news.
            (Shown::Later(sender, _), news) => drop(sender.send(news)),
            (_, News::Step(name)) if self.line.is_some() => say(&format!("{name} ...\n")),
            _ => {}
        }
    }
}

/// Shows what takes longer than `soon`, until nobody has the other end any more.
fn show_late(
    what: &str,
    soon: Duration,
    receiver: &Receiver<News>,
    spinner: impl FnOnce(&str) -> ProgressBar,
) {
    let shown = Instant::now() + soon;
    let mut last = News::Ended;
    loop {
        let left = shown.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left) {
            Ok(News::Advanced(..)) => {}
            Ok(news) => last = news,
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
    let bar = spinner(what);
    let mut next = Ok(last);
    while let Ok(news) = next {
        match news {
            News::Step(name) => bar.set_prefix(name),
            News::Ended => {
                bar.set_prefix(plain(what));
                bar.set_style(style(SPINNER));
                bar.unset_length();
            }
            News::Advanced(current, total) => {
                if let Some(total) = total
                    && bar.length() != Some(total)
                {
                    bar.set_length(total);
                    bar.set_style(style(STEP_OF).progress_chars("=> "));
                }
                bar.set_position(current);
            }
        }
        next = receiver.recv();
    }
    bar.finish_and_clear();
}

fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.set_style(style(SPINNER));
    bar.set_prefix(plain(what));
    bar.enable_steady_tick(TICK);
    bar
}

fn moving(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.set_style(style(MOVING));
    bar.set_message(plain(what));
    bar.enable_steady_tick(TICK);
    bar
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// What was drawn last.
    #[derive(Debug, Clone, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl Screen {
        fn text(&self) -> String {
            self.0.lock().unwrap().trim().to_owned()
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            100
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.0.lock().unwrap().clear();
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_moved_is_shown_in_bytes_of_the_total_once_that_is_known() {
        let screen = Screen::default();
        let bar = moving("copying a to b");
        bar.disable_steady_tick();
        bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(screen.clone())));
        let waiting = Waiting {
            shown: Shown::Bar(bar.clone()),
            line: None,
        };
        waiting.meter().unwrap().count(3 << 20);
        bar.tick();
        let shown = screen.text();
        assert!(
            shown.contains("3.00 MiB") && shown.contains("/s"),
            "{shown}"
        );
        assert!(shown.ends_with("copying a to b"), "{shown}");
        waiting.total().unwrap()(12 << 20);
        bar.tick();
        let shown = screen.text();
        assert!(shown.contains("3.00 MiB/12.00 MiB"), "{shown}");
        waiting.end(Outcome::Done);
        assert_eq!(screen.text(), "");
    }

    #[test]
    fn what_ends_soon_is_not_shown_and_what_does_not_is_with_its_step() {
        let (sender, receiver) = mpsc::channel();
        drop(sender);
        show_late("starting", SOON, &receiver, |_| panic!("it has ended"));

        let (sender, receiver) = mpsc::channel();
        for news in [
            News::Step("importing".to_owned()),
            News::Advanced(1 << 20, Some(2 << 20)),
        ] {
            sender.send(news).unwrap();
        }
        let screen = Screen::default();
        let seen = screen.clone();
        let thread = thread::spawn(move || {
            show_late("starting", Duration::ZERO, &receiver, |what| {
                let bar = spinner(what);
                bar.disable_steady_tick();
                bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(screen)));
                bar
            });
        });
        let end = Instant::now() + Duration::from_secs(10);
        while !seen.text().contains("importing") {
            assert!(Instant::now() < end, "{}", seen.text());
            sender.send(News::Advanced(1 << 20, Some(2 << 20))).unwrap();
            thread::sleep(Duration::from_millis(20));
        }
        drop(sender);
        thread.join().unwrap();
        assert_eq!(seen.text(), "");
    }
}
