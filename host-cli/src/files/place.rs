//! Where a copy goes, as `docker cp` has taught everybody.

use std::io;
use std::path::Path;

use agent_protocol::files::FileKind;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::problem::here;
use crate::error::{ErrorKind, Problem};

/// What to do where nothing is replaced.
const INTO_SPECIAL: &str = "`sovereign fs cat SANDBOX PATH > PLACE` writes a file's data into what is there; in a \
                            sandbox, `sovereign exec -i` does";

/// What is copied.
#[derive(Debug)]
pub(super) struct Origin {
    /// What it is called; `.` for what is in a folder.
    pub(super) name: Vec<u8>,
    is_folder: bool,
}

/// Where a copy goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) folder: Vec<u8>,
    pub(super) name: Vec<u8>,
}

/// What is where a copy is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    Nothing,
    Folder,
    File,
    /// A device, a pipe or a socket, which nothing takes the place of.
    Special,
}

impl There {
    /// What is at a path of this machine. A link is what it leads to; one that leads to what somebody has
    /// open (`/dev/stdout`) is the system's, whatever that is.
    pub(super) fn on_host(path: &Path) -> Result<Self, Problem> {
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Nothing),
            Err(error) => return Err(here(path, &error)),
        };
        Ok(if metadata.is_dir() {
            Self::Folder
        } else if metadata.is_file() && !leads_to_open_file(path) {
            Self::File
        } else {
            Self::Special
        })
    }
}

impl From<FileKind> for There {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::Directory => Self::Folder,
            FileKind::File | FileKind::Symlink => Self::File,
            FileKind::Fifo
            | FileKind::Socket
            | FileKind::BlockDevice
            | FileKind::CharacterDevice => Self::Special,
        }
    }
}

/// Whether a path ends in a link that ends in a magic one, of `/proc/self/fd`.
fn leads_to_open_file(path: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let no_magic = ResolveFlags::NO_MAGICLINKS;
    path.is_symlink()
        && rustix::fs::openat2(CWD, path, flags, Mode::empty(), no_magic).err() == Some(Errno::LOOP)
}

impl Place {
    /// The path of what an archive calls this.
    pub(super) fn below(&self, path: &str) -> String {
        let folder = String::from_utf8_lossy(&self.folder);
        match folder.as_ref() {
            "." => path.to_owned(),
            folder => format!("{}/{path}", folder.trim_end_matches('/')),
        }
    }
}

impl Origin {
    pub(super) fn new(path: &[u8], is_folder: bool) -> Self {
        let (_, name) = split(path);
        let is_nameless = matches!(name, b"" | b"." | b"..");
        Self {
            name: if is_nameless {
                b".".to_vec()
            } else {
                name.to_vec()
            },
            is_folder,
        }
    }

    /// Where it goes, with what is there.
    pub(super) fn place(&self, target: &[u8], there: There) -> Result<Place, Problem> {
        let shown = || String::from_utf8_lossy(target).into_owned();
        let problem = |code, text: &str| Problem::new(code, format!("{}: {text}", shown()));
        match there {
            There::Folder => Ok(Place {
                folder: target.to_vec(),
                name: self.name.clone(),
            }),
            There::Special => Err(Problem {
                hint: Some(INTO_SPECIAL.to_owned()),
                ..problem(
                    ErrorKind::Invalid,
                    "a device, socket or pipe is there, and is not replaced",
                )
            }),
            There::File if self.is_folder => Err(problem(
                ErrorKind::NotADirectory,
                "a folder cannot be copied over a file",
            )),
            There::Nothing if target.ends_with(b"/") && !self.is_folder => {
                Err(problem(ErrorKind::NoSuchFile, "there is no such folder"))
            }
            There::File | There::Nothing => {
                let (folder, name) = split(target);
                if matches!(name, b"" | b"." | b"..") {
                    return Err(problem(ErrorKind::NoSuchFile, "there is no such folder"));
                }
                Ok(Place {
                    folder: folder.to_vec(),
                    name: name.to_vec(),
                })
            }
        }
    }
}

/// A path's folder, and its last part.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path
        .iter()
        .rposition(|byte| *byte != b'/')
        .map_or(0, |last| last + 1);
    let (path, _) = path.split_at(end);
    match path.iter().rposition(|byte| *byte == b'/') {
        None => (b".", path),
        Some(0) => (b"/", path.get(1..).unwrap_or_default()),
        Some(at) => (
            path.get(..at).unwrap_or_default(),
            path.get(at + 1..).unwrap_or_default(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn goes(source: &str, is_folder: bool, target: &str, there: There) -> String {
        match Origin::new(source.as_bytes(), is_folder).place(target.as_bytes(), there) {
            Ok(Place { folder, name }) => {
                let [folder, name] = [folder, name].map(|part| String::from_utf8(part).unwrap());
                format!("{folder} as {name}")
            }
            Err(problem) => problem.code.to_string(),
        }
    }

    #[test]
    fn copies_go_where_docker_puts_them() {
        assert_eq!(goes("a/file", false, "/dir", There::Folder), "/dir as file");
        assert_eq!(
            goes("a/file", false, "/dir/new", There::Nothing),
            "/dir as new"
        );
        assert_eq!(goes("file", false, "old", There::File), ". as old");
        assert_eq!(goes("file", false, "/new", There::Nothing), "/ as new");
        assert_eq!(goes("file", false, "/new/", There::Nothing), "no-such-file");
        assert_eq!(goes("a/dir/", true, "/new/", There::Nothing), "/ as new");
        assert_eq!(goes("a/dir", true, "/old", There::Folder), "/old as dir");
        assert_eq!(goes("a/dir/.", true, "/old", There::Folder), "/old as .");
        assert_eq!(goes("a/dir/.", true, "/new", There::Nothing), "/ as new");
        assert_eq!(goes("/", true, "/old/", There::Folder), "/old/ as .");
        assert_eq!(goes("..", true, "x", There::Folder), "x as .");
        assert_eq!(goes("dir", true, "file", There::File), "not-a-directory");
        assert_eq!(goes("file", false, "..", There::Nothing), "no-such-file");
    }
    #[test]
    fn what_is_no_file_is_not_replaced() {
        assert_eq!(goes("file", false, "/dev/null", There::Special), "invalid");
        assert_eq!(goes("dir", true, "/dev/null", There::Special), "invalid");
        let folder = tempfile::tempdir().unwrap();
        let there = |name: &str| There::on_host(&folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join("file"), "x").unwrap();
        let file = std::fs::File::open(folder.path().join("file")).unwrap();
        let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        for (name, target) in [
            ("null", "/dev/null"),
            ("other", "file"),
            ("open", &own),
            ("dir", "."),
        ] {
            std::os::unix::fs::symlink(target, folder.path().join(name)).unwrap();
        }
        assert_eq!(there("none"), There::Nothing);
        assert_eq!(there("file"), There::File);
        assert_eq!(there("other"), There::File);
        assert_eq!(there("dir"), There::Folder);
        assert_eq!(there("null"), There::Special);
        assert_eq!(there("open"), There::Special);
    }
}
