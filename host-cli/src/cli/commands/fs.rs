//! `sovereign fs`: files of a running sandbox, looked at and changed.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

use agent_client::Files;
use agent_protocol::files::{ChangeKind, FileChange, FileEntry, FileKind};
use serde_json::{Value, json};

use super::life::each;
use crate::cli::args::{FsAction, FsArgs, GlobalArgs, MvArgs};
use crate::cli::report::print_json;
use crate::detached::Detached;
use crate::error::{ErrorKind, Problem};
use crate::registry::Registry;

/// Does something with files of a sandbox.
///
/// # Errors
///
/// The last that one of them met.
pub(in crate::cli) fn fs(args: FsArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let FsArgs { user, action } = args;
    let open = |sandbox: &str| Place::open(sandbox, user.clone());
    match action {
        FsAction::Cat(args) => {
            let place = open(&args.files.sandbox)?;
            each(&args.files.paths, |path| {
                let mut stdout = io::stdout();
                place
                    .files()?
                    .read(path.as_bytes(), args.offset, args.length, &mut stdout)?;
                Ok(())
            })
        }
        FsAction::Write(args) => {
            let files = open(&args.sandbox)?.files()?;
            let stdin = io::stdin();
            let written = files.write_from(args.path.as_bytes(), args.mode, stdin.as_fd())?;
            if global.json {
                let xxh3: String = written
                    .xxh3
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                print_json(&json!({ "bytes": written.bytes, "xxh3": xxh3 }))?;
            }
            Ok(0)
        }
        FsAction::Ls(args) => {
            let place = open(&args.sandbox)?;
            each(&args.paths, |path| {
                place
                    .files()?
                    .list(path.as_bytes(), &mut |entry| tell(&entry, global))?;
                Ok(())
            })
        }
        FsAction::Stat(args) => {
            let place = open(&args.sandbox)?;
            each(&args.paths, |path| {
                let entry = place.files()?.stat(path.as_bytes(), false)?;
                tell(&entry, global).map_err(|error| Problem::of(ErrorKind::Output, &error))
            })
        }
        FsAction::Mkdir(args) => {
            let place = open(&args.files.sandbox)?;
            each(&args.files.paths, |path| {
                Ok(place
                    .files()?
                    .make_directory(path.as_bytes(), args.parents, args.mode)?)
            })
        }
        FsAction::Mv(args) => rename(&open(&args.sandbox)?, &args),
        FsAction::Rm(args) => {
            let place = open(&args.files.sandbox)?;
            each(&args.files.paths, |path| {
                Ok(place.files()?.remove(path.as_bytes(), args.recursive)?)
            })
        }
        FsAction::Find(args) => {
            let files = open(&args.sandbox)?.files()?;
            let [name, contains] =
                [&args.name, &args.contains].map(|text| text.as_deref().map(OsStr::as_bytes));
            files.find(args.path.as_bytes(), name, contains, &mut |entry| {
                if global.json {
                    tell(&entry, global)
                } else {
                    line(&entry.path)
                }
            })?;
            Ok(0)
        }
        FsAction::Watch(args) => {
            let files = open(&args.sandbox)?.files()?;
            files.watch(args.path.as_bytes(), args.recursive, &mut |change| {
                tell_change(&change, global)
            })?;
            Ok(0)
        }
    }
}

/// A sandbox whose files are asked for.
struct Place {
    sandbox: Detached,
    user: Option<String>,
}

impl Place {
    fn open(sandbox: &str, user: Option<String>) -> Result<Self, Problem> {
        let sandbox = Detached::find(&Registry::open_default()?, sandbox)?;
        Ok(Self { sandbox, user })
    }

    fn files(&self) -> Result<Files, Problem> {
        Ok(self.sandbox.files(self.user.clone())?)
    }
}

/// Into a folder that is there, as mv(1) does.
fn rename(place: &Place, args: &MvArgs) -> Result<u8, Problem> {
    let (from, to) = (args.path.as_bytes(), args.to.as_bytes());
    let is_folder = place
        .files()?
        .stat(to, true)
        .is_ok_and(|entry| entry.kind == FileKind::Directory);
    let name = std::path::Path::new(&args.path).file_name();
    let target = match name.filter(|_| is_folder) {
        Some(name) => [to, b"/", name.as_bytes()].concat(),
        None => to.to_vec(),
    };
    place.files()?.rename(from, &target)?;
    Ok(0)
}

fn tell(entry: &FileEntry, global: GlobalArgs) -> io::Result<()> {
    if global.json {
        return line(object(entry).to_string().as_bytes());
    }
    let mut text = format!(
        "{}{} {:>5} {:>5} {:>12} {} ",
        letter(entry.kind),
        permissions(entry.mode),
        entry.uid,
        entry.gid,
        entry.size,
        moment(entry),
    )
    .into_bytes();
    text.extend_from_slice(&entry.path);
    if let Some(target) = &entry.target {
        text.extend_from_slice(b" -> ");
        text.extend_from_slice(target);
    }
    line(&text)
}

fn tell_change(change: &FileChange, global: GlobalArgs) -> io::Result<()> {
    let kind = match change.kind {
        ChangeKind::Created => "created",
        ChangeKind::Modified => "modified",
        ChangeKind::Attributes => "attributes",
        ChangeKind::Removed => "removed",
        ChangeKind::Overflow => "overflow",
    };
    let path = String::from_utf8_lossy(&change.path);
    if global.json {
        return line(json!({ "kind": kind, "path": path }).to_string().as_bytes());
    }
    line(format!("{kind:<10} {path}").as_bytes())
}

/// A line on standard output, at once.
fn line(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.write_all(b"\n")
}

fn object(entry: &FileEntry) -> Value {
    json!({
        "path": String::from_utf8_lossy(&entry.path),
        "type": word(entry.kind),
        "size": entry.size,
        "mode": format!("{:04o}", entry.mode),
        "uid": entry.uid,
        "gid": entry.gid,
        "links": entry.links,
        "modified": moment(entry),
        "target": entry.target.as_ref().map(|target| String::from_utf8_lossy(target)),
    })
}

const fn word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::BlockDevice => "block-device",
        FileKind::CharacterDevice => "character-device",
    }
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
    let bits = |shift: u32| {
        let part = mode >> shift;
        [(4, 'r'), (2, 'w'), (1, 'x')]
            .map(|(bit, letter)| if part & bit == 0 { '-' } else { letter })
    };
    [6, 3, 0].into_iter().flat_map(bits).collect()
}

/// When it was changed, as RFC 3339 has it.
fn moment(entry: &FileEntry) -> String {
    let since = u64::try_from(entry.modified_s).unwrap_or(0);
    // What no calendar holds is told as the epoch.
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since.min(253_402_300_799)));
    humantime::format_rfc3339_seconds(at.unwrap_or(SystemTime::UNIX_EPOCH)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_shown_as_ls_does() {
        assert_eq!(permissions(0o754), "rwxr-xr--");
        assert_eq!(permissions(0), "---------");
    }
}
