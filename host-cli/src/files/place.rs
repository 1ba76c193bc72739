//! Where a copy goes, as `docker cp` has taught everybody.

use crate::error::{ErrorKind, Problem};

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

    /// Where it goes, if the destination is (`Some(true)`) a folder, is something else, or is not
    /// there.
    pub(super) fn place(&self, target: &[u8], is_folder: Option<bool>) -> Result<Place, Problem> {
        let shown = || String::from_utf8_lossy(target).into_owned();
        let problem = |code, text: &str| Problem::new(code, format!("{}: {text}", shown()));
        match is_folder {
            Some(true) => Ok(Place {
                folder: target.to_vec(),
                name: self.name.clone(),
            }),
            Some(false) if self.is_folder => Err(problem(
                ErrorKind::NotADirectory,
                "a folder cannot be copied over a file",
            )),
            None if target.ends_with(b"/") && !self.is_folder => {
                Err(problem(ErrorKind::NoSuchFile, "there is no such folder"))
            }
            Some(false) | None => {
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
    fn goes(source: &str, is_folder: bool, target: &str, there: Option<bool>) -> String {
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
        assert_eq!(goes("a/file", false, "/dir", Some(true)), "/dir as file");
        assert_eq!(goes("a/file", false, "/dir/new", None), "/dir as new");
        assert_eq!(goes("file", false, "old", Some(false)), ". as old");
        assert_eq!(goes("file", false, "/new", None), "/ as new");
        assert_eq!(goes("file", false, "/new/", None), "no-such-file");
        assert_eq!(goes("a/dir/", true, "/new/", None), "/ as new");
        assert_eq!(goes("a/dir", true, "/old", Some(true)), "/old as dir");
        assert_eq!(goes("a/dir/.", true, "/old", Some(true)), "/old as .");
        assert_eq!(goes("a/dir/.", true, "/new", None), "/ as new");
        assert_eq!(goes("/", true, "/old/", Some(true)), "/old/ as .");
        assert_eq!(goes("..", true, "x", Some(true)), "x as .");
        assert_eq!(goes("dir", true, "file", Some(false)), "not-a-directory");
        assert_eq!(goes("file", false, "..", None), "no-such-file");
    }
}
