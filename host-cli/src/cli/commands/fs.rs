//! `sovereign fs`: files of a running sandbox, looked at and changed.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use agent_client::{Files, FilesError};
use agent_protocol::files::{FaultKind, FileChange, FileEntry, FileKind};
use serde::Serialize;
use serde_bytes::ByteBuf;

use super::life::each;
use crate::cli::args::{CatArgs, FsAction, FsArgs, GlobalArgs, MvArgs};
use crate::cli::json::{Change, Content, Done, Entry, FileTold, Happened, Written, modified};
use crate::cli::legible;
use crate::cli::report::sandbox::of_sandbox;
use crate::cli::report::{Stdout, print_json_line};
use crate::detached::Detached;
use crate::error::{ErrorKind, Problem};
use crate::registry::Registry;

/// How much of a file is told at once in JSON.
const TOLD: u64 = 16 << 20;

/// Does something with files of a sandbox.
///
/// # Errors
///
/// The last that one of them met.
pub(in crate::cli) fn fs(args: FsArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let FsArgs {
        user,
        timeout,
        action,
    } = args;
    let until = timeout.and_then(after);
    let open = |sandbox: &str| {
        let sandbox = Detached::find(&Registry::open_default()?, sandbox)?;
        Ok::<_, Problem>(Place {
            sandbox,
            user: user.clone(),
            until,
            global,
        })
    };
    match action {
        FsAction::Cat(args) => cat(&open(&args.files.sandbox)?, &args),
        FsAction::Write(args) => {
            let paths = [args.path];
            open(&args.sandbox)?.each(&paths, |files, path| {
                let written = files.write_from(path, args.mode, io::stdin().as_fd())?;
                let digits = written.xxh3.iter().map(|byte| format!("{byte:02x}"));
                Ok(Some(Written {
                    bytes: written.bytes,
                    xxh3: digits.collect(),
                }))
            })
        }
        FsAction::Ls(args) => open(&args.sandbox)?.each(&args.paths, |files, path| {
            // Of several folders, each entry tells whose it is.
            let folder = (args.paths.len() > 1).then_some(path);
            files.list(path, &mut |entry| tell(&below(folder, entry), global))?;
            Ok(None::<Entry>)
        }),
        FsAction::Stat(args) => open(&args.sandbox)?.each(&args.paths, |files, path| {
            let entry = files.stat(path, false)?;
            let told = tell(&entry, global);
            told.map_err(|error| Problem::of(ErrorKind::Output, &error))?;
            Ok(None::<Entry>)
        }),
        FsAction::Mkdir(args) => {
            open(&args.files.sandbox)?.each(&args.files.paths, |files, path| {
                files.make_directory(path, args.parents, args.mode)?;
                Ok(Some(Done {}))
            })
        }
        FsAction::Mv(args) => {
            let place = open(&args.sandbox)?;
            let paths = [args.path.clone()];
            place.each(&paths, |files, path| {
                rename(&place, files, path, &args)?;
                Ok(Some(Done {}))
            })
        }
        FsAction::Rm(args) => open(&args.files.sandbox)?.each(&args.files.paths, |files, path| {
            files.remove(path, args.recursive)?;
            Ok(Some(Done {}))
        }),
        FsAction::Find(args) => {
            let [name, contains] =
                [&args.name, &args.contains].map(|text| text.as_deref().map(OsStr::as_bytes));
            let paths = [args.path.clone()];
            open(&args.sandbox)?.each(&paths, |files, path| {
                files.find(path, name, contains, &mut |entry| match global.json {
                    true => tell(&entry, global),
                    false => show(&entry.path),
                })?;
                Ok(None::<Entry>)
            })
        }
        FsAction::Watch(args) => {
            let paths = [args.path];
            open(&args.sandbox)?.each(&paths, |files, path| {
                files.watch(path, args.recursive, &mut |change| {
                    tell_change(&change, global)
                })?;
                Ok(None::<Done>)
            })
        }
    }
}

fn cat(place: &Place, args: &CatArgs) -> Result<u8, Problem> {
    place.each(&args.files.paths, |files, path| {
        if !place.global.json {
            files.read(path, args.offset, args.length, &mut Stdout)?;
            return Ok(None);
        }
        let wanted = args.length.unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        // One byte more tells whether there are more.
        files.read(path, args.offset, Some(wanted.min(TOLD + 1)), &mut bytes)?;
        let whole = bytes.len();
        bytes.truncate(usize::try_from(TOLD).unwrap_or(usize::MAX));
        Ok(Some(Content::of(&bytes, bytes.len() < whole)))
    })
}

/// When this time is up. Never, of one that no clock can tell.
pub(super) fn after(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

/// A sandbox whose files are asked for.
struct Place {
    sandbox: Detached,
    user: Option<String>,
    until: Option<Instant>,
    global: GlobalArgs,
}

impl Place {
    fn files(&self) -> Result<Files, Problem> {
        Ok(self.sandbox.files_until(self.user.clone(), self.until)?)
    }

    /// Does something with each file, and goes on when one cannot have it. In JSON each is told in a
    /// line, unless it has been.
    ///
    /// # Errors
    ///
    /// The last that one of them met, unless it was told in JSON.
    fn each<T: Serialize>(
        &self,
        paths: &[OsString],
        mut act: impl FnMut(Files, &[u8]) -> Result<Option<T>, Problem>,
    ) -> Result<u8, Problem> {
        let mut code = 0;
        let all = each(paths, |path| {
            let path = path.as_bytes();
            let outcome = self.files().and_then(|files| act(files, path));
            let outcome = outcome.map_err(|problem| late(path, problem));
            let outcome = outcome.map_err(|problem| of_sandbox(problem, &self.sandbox));
            if !self.global.json {
                return outcome.map(drop);
            }
            code = outcome.as_ref().map_or_else(|it| it.exit_code, |_| code);
            match outcome.transpose() {
                Some(told) => print_json_line(&FileTold::new(path, told)),
                None => Ok(()),
            }
        })?;
        Ok(all.max(code))
    }
}

/// The same problem, which says what was not done in its time.
fn late(path: &[u8], problem: Problem) -> Problem {
    match problem.code {
        ErrorKind::OutOfTime => Problem {
            message: format!("{}: {}", legible::bytes(path), problem.message),
            ..problem
        },
        _ => problem,
    }
}

/// Into a folder that is there, as mv(1) does.
fn rename(place: &Place, files: Files, from: &[u8], args: &MvArgs) -> Result<(), Problem> {
    let to = args.to.as_bytes();
    let is_folder = match place.files()?.stat(to, true) {
        Ok(entry) => entry.kind == FileKind::Directory,
        Err(FilesError::Fault(fault)) if fault.kind == FaultKind::NotFound => false,
        Err(error) => return Err(error.into()),
    };
    let name = Path::new(&args.path).file_name();
    let target = match name.filter(|_| is_folder) {
        Some(name) => [to, b"/", name.as_bytes()].concat(),
        None => to.to_vec(),
    };
    Ok(files.rename(from, &target)?)
}

/// An entry as it is called from where the folder is.
fn below(folder: Option<&[u8]>, entry: FileEntry) -> FileEntry {
    let Some(folder) = folder else {
        return entry;
    };
    let slash: &[u8] = if folder.ends_with(b"/") { b"" } else { b"/" };
    FileEntry {
        path: ByteBuf::from([folder, slash, &entry.path].concat()),
        ..entry
    }
}

fn tell(entry: &FileEntry, global: GlobalArgs) -> io::Result<()> {
    if global.json {
        let told = FileTold::new(&entry.path, Ok(Entry::of(entry)));
        return line(&serde_json::to_vec(&told)?);
    }
    let mut text = format!(
        "{}{} {:>5} {:>5} {:>12} {} ",
        letter(entry.kind),
        permissions(entry.mode),
        entry.uid,
        entry.gid,
        entry.size,
        humantime::format_rfc3339_seconds(modified(entry).0),
    )
    .into_bytes();
    text.extend_from_slice(&entry.path);
    if let Some(target) = &entry.target {
        text.extend_from_slice(b" -> ");
        text.extend_from_slice(target);
    }
    show(&text)
}

fn tell_change(change: &FileChange, global: GlobalArgs) -> io::Result<()> {
    if global.json {
        return line(&serde_json::to_vec(&Change::of(change))?);
    }
    show(&change_line(change))
}

/// What is watched itself is `.`.
fn change_line(change: &FileChange) -> Vec<u8> {
    let kind = Happened::of(change.kind).word();
    let path = match change.path.as_slice() {
        b"" => b".",
        path => path,
    };
    [format!("{kind:<10} ").as_bytes(), path].concat()
}

/// A line with what a sandbox calls a file: as it is for programs, and legible for people.
fn show(text: &[u8]) -> io::Result<()> {
    match io::stdout().is_terminal() {
        true => line(legible::bytes(text).as_bytes()),
        false => line(text),
    }
}

/// A line on standard output, at once.
fn line(text: &[u8]) -> io::Result<()> {
    Stdout.write_all(text)?;
    Stdout.write_all(b"\n")
}

const fn letter(kind: FileKind) -> char {
    match kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::BlockDevice => 'b',
        FileKind::CharacterDevice => 'c',
    }
}

fn permissions(mode: u32) -> String {
    // The bits of chmod(2), and what stands for the special one in the place of `x`.
    let bits = |shift: u32, special: u32, letter: char| {
        let part = mode >> shift;
        let or_none = |bit: u32, letter| if part & bit == 0 { '-' } else { letter };
        let execute = match (mode & special != 0, part & 1 != 0) {
            (false, _) => or_none(1, 'x'),
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        };
        [or_none(4, 'r'), or_none(2, 'w'), execute]
    };
    let classes = [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')];
    let all = classes.map(|(shift, special, letter)| bits(shift, special, letter));
    all.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use agent_protocol::files::ChangeKind;

    use super::*;

    #[test]
    fn every_change_has_a_name() {
        let line = |path: &[u8]| {
            change_line(&FileChange {
                path: ByteBuf::from(path),
                kind: ChangeKind::Removed,
            })
        };
        assert_eq!(line(b""), b"removed    .");
        assert_eq!(line(b"a/\xff"), b"removed    a/\xff");
    }

    #[test]
    fn modes_are_shown_as_ls_does() {
        assert_eq!(permissions(0o754), "rwxr-xr--");
        assert_eq!(permissions(0), "---------");
        assert_eq!(permissions(0o7755), "rwsr-sr-t");
        assert_eq!(permissions(0o7644), "rwSr-Sr-T");
        assert_eq!(permissions(0o1777), "rwxrwxrwt");
    }
}
