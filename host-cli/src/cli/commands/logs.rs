//! `sovereign logs`: what a command wrote.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use agent_protocol::message::OutputStream;
use serde::Serialize;

use super::follow::{Follower, News, TOLD_LOST, told_missing};
use crate::cli::args::{GlobalArgs, LogsArgs};
use crate::cli::json::{Bytes, Encoding};
use crate::cli::legible;
use crate::cli::report::sandbox::of_sandbox;
use crate::cli::report::{Stdout, print, say};
use crate::detached::Detached;
use crate::error::{ErrorKind, Problem};
use crate::registry::output::Piece;
use crate::registry::record::Timestamp;
use crate::registry::{Registry, State};
use crate::spec::Unsupported;
use crate::tier::Tier;

/// Shows what a command wrote.
///
/// # Errors
///
/// If there is nothing to be shown, or it cannot be.
pub(in crate::cli) fn logs(args: &LogsArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let sandbox = Detached::find(&Registry::open_default()?, &args.sandbox)?;
    show(&sandbox, args, global).map_err(|problem| of_sandbox(problem, &sandbox))
}

fn show(sandbox: &Detached, args: &LogsArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let entry = sandbox.entry();
    if args.supervisor {
        let text = std::fs::read(entry.words_path()).unwrap_or_default();
        if global.json {
            let mut told = Vec::new();
            for line in text.split_inclusive(|byte| *byte == b'\n') {
                LogLine::of_supervisor(line).write(&mut told)?;
            }
            return print(&String::from_utf8_lossy(&told)).map(|()| 0);
        }
        print(&String::from_utf8_lossy(&text))?;
        return Ok(0);
    }
    let mut follower = match args.console {
        true => Follower::at(sandbox, console_of(sandbox)?)?,
        false => Follower::new(sandbox, args.command)?,
    };
    let mut shown = Shown::new(args, global);
    let mut ended = false;
    let damage = loop {
        match follower.next_piece() {
            Ok(Some(piece)) => {
                ended |= matches!(piece, Piece::Ended(_));
                shown.take(piece);
            }
            Ok(None) => break None,
            // What comes before it can be read.
            Err(damage) => break Some(damage),
        }
    };
    if let Some(damage) = damage {
        shown.print_last()?;
        return Err(damage.into());
    }
    if !args.console && !follower.is_kept() && !is_coming(sandbox, args)? {
        return Err(Problem {
            hint: Some(
                "only what runs detached is kept: `run -d`, `exec -d`, or a command that was left"
                    .to_owned(),
            ),
            ..Problem::new(
                ErrorKind::NoOutput,
                format!(
                    "nothing is kept of command {} of {}",
                    args.command, args.sandbox
                ),
            )
        });
    }
    shown.print_last()?;
    if !args.follow || ended {
        return Ok(0);
    }
    loop {
        match follower.next(&[])? {
            News::Piece(Piece::Ended(_)) | News::Gone | News::Other(_) => return Ok(0),
            News::Piece(piece) => shown.print(&piece)?,
        }
    }
}

/// Where the console of a sandbox is kept that has one.
fn console_of(sandbox: &Detached) -> Result<PathBuf, Problem> {
    let record = sandbox.entry().read()?;
    let reason = match record.place.map(|place| place.tier) {
        Some(Tier::Microvm) | None => return Ok(sandbox.entry().console_path()),
        Some(tier @ (Tier::Docker | Tier::Podman)) => {
            (tier, "a container has no kernel of its own")
        }
        Some(tier) => (tier, "a process has no kernel of its own"),
    };
    let (tier, reason) = reason;
    let refusal = Unsupported {
        tier,
        flag: "--console",
        reason,
    };
    Err(Problem {
        hint: Some("without it, `sovereign logs` shows what commands wrote".to_owned()),
        ..Problem::of(ErrorKind::UnsupportedFlag, &refusal)
    })
}

/// Whether the command may still write something.
fn is_coming(sandbox: &Detached, args: &LogsArgs) -> Result<bool, Problem> {
    let record = sandbox.entry().read()?;
    let runs = matches!(
        sandbox.entry().state(&record),
        State::Running | State::Starting
    );
    Ok(runs && args.command == 0 && record.plan.command.is_some())
}

/// A piece of what a command wrote, at most a line; all of them together are what it wrote.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct LogLine<'a> {
    /// When it wrote it.
    time: Option<Timestamp>,
    /// Where.
    stream: Source,
    /// What, with the end of the line.
    text: Cow<'a, str>,
    /// How that is told.
    encoding: Encoding,
}

/// Where something was written.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
enum Source {
    /// The command's standard output.
    Stdout,
    /// The command's standard error.
    Stderr,
    /// The guest's console.
    Console,
    /// The supervisor; of what it said no times are known.
    Supervisor,
}

impl<'a> LogLine<'a> {
    fn of(stream: Source, time: SystemTime, line: &'a [u8]) -> Self {
        let told = Bytes::from(line);
        Self {
            time: Some(Timestamp(time)),
            stream,
            text: told.text,
            encoding: told.encoding,
        }
    }

    fn of_supervisor(line: &'a [u8]) -> Self {
        let told = Bytes::from(line);
        Self {
            time: None,
            stream: Source::Supervisor,
            text: told.text,
            encoding: told.encoding,
        }
    }

    fn write(&self, into: &mut Vec<u8>) -> Result<(), Problem> {
        let written = serde_json::to_writer(&mut *into, self);
        written.map_err(|error| Problem::of(ErrorKind::Output, &error))?;
        into.push(b'\n');
        Ok(())
    }
}

/// What is shown, and how.
struct Shown {
    since: Option<SystemTime>,
    tail: Option<usize>,
    timestamps: bool,
    json: bool,
    /// Whether it is a console's.
    console: bool,
    /// The lines that are shown when all are known: the last so many, or all.
    lines: VecDeque<(OutputStream, SystemTime, Vec<u8>)>,
    /// Whether the last line of each stream is still open.
    open: [bool; 2],
    /// How many bytes of it could not be kept.
    missing: u64,
    /// Whether some of it was put aside before it was read.
    lost: bool,
}

impl Shown {
    fn new(args: &LogsArgs, global: GlobalArgs) -> Self {
        Self {
            since: args.since,
            tail: args.tail,
            timestamps: args.timestamps,
            json: global.json,
            console: args.console,
            lines: VecDeque::new(),
            open: [false; 2],
            missing: 0,
            lost: false,
        }
    }

    /// Keeps what may have to be shown.
    fn take(&mut self, piece: Piece) {
        let (stream, time, data) = match piece {
            Piece::Output { stream, time, data } => (stream, time, data),
            Piece::Missing { bytes } => {
                self.missing += bytes;
                return;
            }
            Piece::Lost { .. } => {
                self.lost = true;
                return;
            }
            Piece::Ended(_) => return,
        };
        if self.since.is_some_and(|since| time < since) {
            return;
        }
        for line in data.split_inclusive(|byte| *byte == b'\n') {
            let last = self.lines.iter_mut().rev().find(|(of, ..)| *of == stream);
            match last {
                Some((.., text)) if !text.ends_with(b"\n") => text.extend_from_slice(line),
                _ => self.lines.push_back((stream, time, line.to_vec())),
            }
        }
        while self.tail.is_some_and(|tail| self.lines.len() > tail) {
            self.lines.pop_front();
        }
    }

    fn print_last(&mut self) -> Result<(), Problem> {
        let mut lines = std::mem::take(&mut self.lines).into_iter();
        lines.try_for_each(|(stream, time, data)| self.write(stream, time, &data))?;
        if std::mem::take(&mut self.lost) {
            say(&format!("sovereign: {TOLD_LOST}\n"));
        }
        match std::mem::take(&mut self.missing) {
            0 => {}
            bytes => say(&format!("sovereign: {}\n", told_missing(bytes))),
        }
        Ok(())
    }

    fn print(&mut self, piece: &Piece) -> Result<(), Problem> {
        match piece {
            Piece::Output { stream, time, data } => self.write(*stream, *time, data),
            Piece::Missing { bytes } => {
                say(&format!("sovereign: {}\n", told_missing(*bytes)));
                Ok(())
            }
            Piece::Lost { .. } => {
                say(&format!("sovereign: {TOLD_LOST}\n"));
                Ok(())
            }
            Piece::Ended(_) => Ok(()),
        }
    }

    fn write(
        &mut self,
        stream: OutputStream,
        time: SystemTime,
        data: &[u8],
    ) -> Result<(), Problem> {
        let open = match (stream, &mut self.open) {
            (OutputStream::Stdout, [open, _]) | (OutputStream::Stderr, [_, open]) => open,
        };
        let source = match stream {
            _ if self.console => Source::Console,
            OutputStream::Stdout => Source::Stdout,
            OutputStream::Stderr => Source::Stderr,
        };
        // The guest may have written anything there.
        let clean = (self.console && !self.json).then(|| legible::console(data));
        let data = clean.as_ref().map_or(data, String::as_bytes);
        let mut text = Vec::with_capacity(data.len());
        for line in data.split_inclusive(|byte| *byte == b'\n') {
            if self.json {
                LogLine::of(source, time, line).write(&mut text)?;
                continue;
            }
            if self.timestamps && !*open {
                text.extend_from_slice(format!("{} ", Timestamp(time)).as_bytes());
            }
            text.extend_from_slice(line);
            *open = !line.ends_with(b"\n");
        }
        let written = match stream {
            OutputStream::Stderr if !self.json => io::stderr().lock().write_all(&text),
            OutputStream::Stdout | OutputStream::Stderr => Stdout.write_all(&text),
        };
        written
            .and_then(|()| Stdout.flush())
            .map_err(|error| Problem::of(ErrorKind::Output, &error))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn shown(tail: Option<usize>) -> Shown {
        Shown {
            since: None,
            tail,
            timestamps: false,
            json: false,
            console: false,
            lines: VecDeque::new(),
            open: [false; 2],
            missing: 0,
            lost: false,
        }
    }

    fn output(data: &[u8]) -> Piece {
        Piece::Output {
            stream: OutputStream::Stdout,
            time: UNIX_EPOCH,
            data: data.to_vec(),
        }
    }

    #[test]
    fn the_last_lines_are_whole_lines_however_they_were_written() {
        let mut shown = shown(Some(2));
        for data in [&b"a\nb"[..], b"c\nd", b"e"] {
            shown.take(output(data));
        }
        let lines: Vec<_> = shown
            .lines
            .iter()
            .map(|(.., text)| text.as_slice())
            .collect();
        assert_eq!(lines, [&b"bc\n"[..], b"de"]);
    }

    #[test]
    fn what_was_lost_is_noted() {
        let mut shown = shown(Some(2));
        shown.take(Piece::Missing { bytes: 7 });
        assert!(!shown.lost);
        shown.take(Piece::Lost { parts: 1 });
        assert!(shown.lost && shown.missing == 7);
    }

    #[test]
    fn what_is_too_old_is_left_out() {
        let mut shown = shown(None);
        shown.since = Some(SystemTime::now());
        shown.take(output(b"old\n"));
        assert!(shown.lines.is_empty());
    }
}
