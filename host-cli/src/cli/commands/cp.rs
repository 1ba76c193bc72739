//! `sovereign cp`: files into sandboxes, out of them and between them.

mod size;

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use agent_client::Meter;
use agent_protocol::files::Transfer;
use serde::Serialize;

use super::fs::after;
use crate::cli::args::{CpArgs, GlobalArgs};
use crate::cli::report::sandbox::of_sandbox;
use crate::cli::report::{Failed, Stdout, print_json, say};
use crate::cli::waiting::Waiting;
use crate::detached::Detached;
use crate::error::{ErrorKind, Problem};
use crate::files::{self, FileSource};
use crate::registry::Registry;

/// Where an archive goes that no terminal can show.
const NOT_SHOWN: &str =
    "redirect it (`> FILE.tar`, `| tar t`), or look at a file with `sovereign fs cat`";

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Stream,
    Here(&'a Path),
    Sandbox { name: String, path: &'a [u8] },
}

/// What was copied.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Copied {
    /// Files, folders and links.
    entries: u64,
    /// What was moved: files and what is told of them, as an archive.
    bytes: u64,
    /// Sockets, pipes and devices, which are left out.
    skipped: u64,
    /// Files that a folder listed, and that were gone before they were read: left out.
    vanished: u64,
}

impl Copied {
    const fn of(transfer: Transfer) -> Self {
        Self {
            entries: transfer.entries,
            bytes: transfer.bytes,
            skipped: transfer.skipped,
            vanished: transfer.vanished,
        }
    }
}

/// Copies files.
///
/// # Errors
///
/// If there is no such file, no such place, or it cannot be read or written.
pub(in crate::cli) fn cp(args: &CpArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let (source, target) = (side(&args.source), side(&args.target));
    let is_streamed = target == Side::Stream;
    if is_streamed && io::stdout().is_terminal() {
        return Err(Problem {
            hint: Some(NOT_SHOWN.to_owned()),
            ..Problem::new(
                ErrorKind::Usage,
                "a tar archive is not written to a terminal".to_owned(),
            )
        });
    }
    let what = format!(
        "copying {} to {}",
        args.source.display(),
        args.target.display()
    );
    let waiting = Waiting::moving(global, &what);
    let here = match source {
        Side::Here(path) => Some(path),
        Side::Stream | Side::Sandbox { .. } => None,
    };
    let copied = measured(here, args.follow_link, &waiting, || {
        let until = args.timeout.and_then(after);
        copy(args, source, target, waiting.meter().as_ref(), until)
    });
    waiting.end_as(&copied);
    match copied.map_err(|problem| late(problem, &what)) {
        Ok(copied) => {
            tell_skipped(copied, global);
            match (global.json, is_streamed) {
                (false, _) => {}
                (true, false) => print_json(&Copied::of(copied))?,
                (true, true) => say_json(&Copied::of(copied)),
            }
            Ok(0)
        }
        Err(problem) if global.json && is_streamed => {
            say_json(&Failed {
                exit_code: problem.exit_code,
                error: &problem,
            });
            Ok(problem.exit_code)
        }
        Err(problem) => Err(problem),
    }
}

/// The same problem, which says what was not done in its time.
fn late(problem: Problem, what: &str) -> Problem {
    match problem.code {
        ErrorKind::OutOfTime => Problem {
            message: format!("{}: {what}", problem.message),
            ..problem
        },
        _ => problem,
    }
}

/// To standard error: standard output has the archive.
fn say_json(object: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(object) {
        say(&(text + "\n"));
    }
}

/// Does it, and has it told meanwhile how much it will be, where that can be known: of what is here.
fn measured<T>(
    source: Option<&Path>,
    follow: bool,
    waiting: &Waiting,
    act: impl FnOnce() -> T,
) -> T {
    let Some((total, source)) = waiting.total().zip(source) else {
        return act();
    };
    let is_wanted = AtomicBool::new(true);
    thread::scope(|scope| {
        let measure = || {
            if let Some(bytes) = size::of(source, follow, &is_wanted) {
                total(bytes);
            }
        };
        let thread = thread::Builder::new().name("measure-files".to_owned());
        // Without one, it is not told.
        let _ = thread.spawn_scoped(scope, measure);
        let done = act();
        is_wanted.store(false, Ordering::Relaxed);
        done
    })
}

fn copy(
    args: &CpArgs,
    source: Side<'_>,
    target: Side<'_>,
    meter: Option<&Meter>,
    until: Option<Instant>,
) -> Result<Transfer, Problem> {
    let follow = args.follow_link;
    let find = |name: &str| -> Result<Detached, Problem> {
        Ok(Detached::find(&Registry::open_default()?, name)?)
    };
    let (in_sandbox, outcome) = match (source, target) {
        (Side::Here(source), Side::Sandbox { name, path }) => {
            let sandbox = find(&name)?;
            let copied = files::copy_in(
                source,
                &opened(&sandbox, args, meter, until),
                home(path),
                follow,
            );
            (sandbox, copied)
        }
        (Side::Sandbox { name, path }, Side::Here(target)) => {
            let sandbox = find(&name)?;
            let copied = files::copy_out(
                &opened(&sandbox, args, meter, until),
                home(path),
                target,
                follow,
            );
            (sandbox, copied)
        }
        (
            Side::Sandbox { name, path },
            Side::Sandbox {
                name: to,
                path: target,
            },
        ) => {
            let (sandbox, other) = (find(&name)?, find(&to)?);
            let copied = files::copy_between(
                &opened(&sandbox, args, None, until),
                home(path),
                &opened(&other, args, meter, until),
                home(target),
                follow,
            );
            (sandbox, copied)
        }
        (Side::Stream, Side::Sandbox { name, path }) => {
            let sandbox = find(&name)?;
            let stdin = io::stdin();
            let copied = files::unpack(
                stdin.as_fd(),
                &opened(&sandbox, args, meter, until),
                home(path),
            );
            (sandbox, copied)
        }
        (Side::Sandbox { name, path }, Side::Stream) => {
            let sandbox = find(&name)?;
            let packed = files::pack(
                &opened(&sandbox, args, meter, until),
                home(path),
                follow,
                &mut Stdout,
            );
            (sandbox, packed)
        }
        (Side::Here(_) | Side::Stream, Side::Here(_) | Side::Stream) => {
            let problem = "one of the two must be in a sandbox: SANDBOX:PATH";
            return Err(Problem::new(ErrorKind::Usage, problem.to_owned()));
        }
    };
    outcome.map_err(|problem| of_sandbox(problem, &in_sandbox))
}

/// Where sessions for the files of a sandbox come from, whose data this counts.
fn opened<'a>(
    sandbox: &'a Detached,
    args: &'a CpArgs,
    meter: Option<&'a Meter>,
    until: Option<Instant>,
) -> impl FileSource + 'a {
    move || {
        let files = sandbox.files_until(args.user.clone(), until);
        let files = files.map_err(|error| error.problem())?;
        let files = match meter {
            Some(meter) => files.counted_by(meter.clone()),
            None => files,
        };
        Ok(match args.archive {
            true => files.keeping_owners(),
            false => files,
        })
    }
}

fn tell_skipped(transfer: Transfer, global: GlobalArgs) {
    if global.quiet {
        return;
    }
    for text in left_out(transfer) {
        say(&format!("sovereign: {text}\n"));
    }
}

fn left_out(transfer: Transfer) -> Vec<String> {
    let odd = match transfer.skipped {
        0 => None,
        1 => Some("1 socket, pipe or device was left out".to_owned()),
        count => Some(format!("{count} sockets, pipes and devices were left out")),
    };
    let gone = match transfer.vanished {
        0 => None,
        1 => Some("1 file was gone before it was read, and was left out".to_owned()),
        count => Some(format!(
            "{count} files were gone before they were read, and were left out"
        )),
    };
    odd.into_iter().chain(gone).collect()
}

/// Without a path: the home of the user.
fn home(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

/// A colon parts a sandbox's name from a path, unless a slash comes before it.
fn side(text: &OsString) -> Side<'_> {
    let bytes = text.as_bytes();
    if bytes == b"-" {
        return Side::Stream;
    }
    let colon = bytes.iter().position(|byte| matches!(byte, b':' | b'/'));
    match colon.and_then(|at| Some((bytes.get(..at)?, bytes.get(at..)?.strip_prefix(b":")?))) {
        Some((name, path)) if !name.is_empty() => Side::Sandbox {
            name: String::from_utf8_lossy(name).into_owned(),
            path,
        },
        _ => Side::Here(Path::new(OsStr::from_bytes(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted_in_words() {
        let told = |skipped, vanished| {
            let transfer = Transfer {
                skipped,
                vanished,
                ..Transfer::default()
            };
            left_out(transfer).join("; ")
        };
        assert_eq!(told(0, 0), "");
        assert_eq!(told(1, 0), "1 socket, pipe or device was left out");
        assert!(told(2, 0).starts_with("2 sockets, pipes and devices were"));
        assert!(told(1, 1).ends_with("; 1 file was gone before it was read, and was left out"));
        assert!(told(0, 2).starts_with("2 files were gone"));
    }

    #[test]
    fn colon_parts_sandbox_and_path() {
        let sandbox = |text: &str| match side(&OsString::from(text)) {
            Side::Sandbox { name, path } => Some((name, path.to_vec())),
            Side::Here(_) | Side::Stream => None,
        };
        assert_eq!(
            sandbox("work:/a:b"),
            Some(("work".to_owned(), b"/a:b".to_vec()))
        );
        assert_eq!(sandbox("work:"), Some(("work".to_owned(), Vec::new())));
        assert_eq!(sandbox("./a:b"), None);
        assert_eq!(sandbox("a/b:c"), None);
        assert_eq!(sandbox(":x"), None);
        assert_eq!(sandbox("file"), None);
        assert_eq!(side(&OsString::from("-")), Side::Stream);
    }
}
