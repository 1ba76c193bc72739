//! The command's environment: what was typed and what files say. Nothing of this program's own
//! environment enters but what is named.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde_bytes::ByteBuf;

/// The most bytes of a file: a command's arguments and environment are smaller than that by far.
const MAX_FILE: u64 = 1 << 20;

/// What is no environment.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnvironmentError {
    /// A name that no variable can have.
    #[error("-e {0:?}: a variable needs a name before the `=`, without NUL bytes")]
    BadVariable(OsString),
    /// A file that cannot be read.
    #[error("--env-file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file that has no end, or is larger than any environment.
    #[error(
        "--env-file {}: more than {} MiB: no environment is as large",
        path.display(),
        MAX_FILE >> 20
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A line that sets no variable.
    #[error(
        "--env-file {}, line {line}: a variable needs a name before the `=`, without blanks",
        path.display()
    )]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
}

/// The variables that files and words set, in this order; a later one replaces an earlier one.
/// `here` looks a name up in this program's own environment.
///
/// # Errors
///
/// If a file cannot be read, or something sets no variable.
pub(super) fn collect(
    files: &[PathBuf],
    words: &[OsString],
    here: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<Vec<(ByteBuf, ByteBuf)>, EnvironmentError> {
    let mut variables = BTreeMap::new();
    for path in files {
        let text = read_file(path)?;
        add_file(&mut variables, path, &text, &here)?;
    }
    for word in words {
        add(&mut variables, word.as_bytes(), &here)
            .ok_or_else(|| EnvironmentError::BadVariable(word.clone()))?;
    }
    let own = |bytes: Vec<u8>| ByteBuf::from(bytes);
    Ok(variables
        .into_iter()
        .map(|(name, value)| (own(name), own(value)))
        .collect())
}

/// Reads a file, which may be a pipe or a device, as far as any environment goes.
fn read_file(path: &Path) -> Result<Vec<u8>, EnvironmentError> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text))
        .map_err(|source| EnvironmentError::File {
            path: path.to_owned(),
            source,
        })?;
    match u64::try_from(text.len()) {
        Ok(0..=MAX_FILE) => Ok(text),
        Ok(_) | Err(_) => Err(EnvironmentError::TooLarge {
            path: path.to_owned(),
        }),
    }
}

type Variables = BTreeMap<Vec<u8>, Vec<u8>>;

fn add_file(
    variables: &mut Variables,
    path: &Path,
    text: &[u8],
    here: &impl Fn(&OsStr) -> Option<OsString>,
) -> Result<(), EnvironmentError> {
    // Some editors write it, and it is nobody's name.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let name = line.split(|byte| *byte == b'=').next().unwrap_or_default();
        // As in Docker: a blank in a name is a mistake, and quotes are part of a value.
        let added = match name.iter().any(u8::is_ascii_whitespace) {
            true => None,
            false => add(variables, line, here),
        };
        added.ok_or_else(|| EnvironmentError::BadLine {
            path: path.to_owned(),
            line: index + 1,
        })?;
    }
    Ok(())
}

/// Adds `NAME=VALUE`, or `NAME` with the value that it has here, if it has one.
fn add(
    variables: &mut Variables,
    word: &[u8],
    here: &impl Fn(&OsStr) -> Option<OsString>,
) -> Option<()> {
    let mut parts = word.splitn(2, |byte| *byte == b'=');
    let name = parts
        .next()
        .filter(|name| !name.is_empty() && !word.contains(&0))?;
    let value = match parts.next() {
        Some(value) => Some(value.to_vec()),
        None => here(OsStr::from_bytes(name)).map(OsString::into_vec),
    };
    if let Some(value) = value {
        variables.insert(name.to_vec(), value);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(name: &OsStr) -> Option<OsString> {
        (name == "HERE").then(|| OsString::from("from here"))
    }

    fn pairs(files: &[PathBuf], words: &[&str]) -> Result<Vec<(String, String)>, EnvironmentError> {
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        let text = |bytes: ByteBuf| String::from_utf8(bytes.into_vec()).unwrap();
        let variables = collect(files, &words, here)?;
        Ok(variables
            .into_iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect())
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn nothing_enters_that_was_not_named() {
        assert_eq!(pairs(&[], &[]).unwrap(), []);
    }

    #[test]
    fn values_are_taken_as_they_are() {
        let words = ["A=1", "B=", "C=x=y", "D= spaced ", "HERE", "NOT_HERE"];
        assert_eq!(
            pairs(&[], &words).unwrap(),
            [
                pair("A", "1"),
                pair("B", ""),
                pair("C", "x=y"),
                pair("D", " spaced "),
                pair("HERE", "from here")
            ]
        );
    }

    #[test]
    fn words_replace_files_and_later_ones_earlier_ones() {
        let first = file("\u{feff}# comment\n\nA=file\r\n  B=indented\nHERE\n");
        let second = file("B=second");
        let files = [first.path().to_owned(), second.path().to_owned()];
        assert_eq!(
            pairs(&files, &["A=word", "A=last"]).unwrap(),
            [
                pair("A", "last"),
                pair("B", "second"),
                pair("HERE", "from here")
            ]
        );
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        assert!(
            pairs(&[], &["=x"])
                .unwrap_err()
                .to_string()
                .contains("\"=x\"")
        );
        for text in ["A=1\n=2\n", "# c\nexport A=1\n", "\n  A =1"] {
            let bad = file(text);
            let error = pairs(&[bad.path().to_owned()], &[])
                .unwrap_err()
                .to_string();
            assert!(error.contains("line 2"), "{error}");
        }
        let error = pairs(&[PathBuf::from("/nowhere/env")], &[])
            .unwrap_err()
            .to_string();
        assert_eq!(error, "--env-file /nowhere/env");
    }

    #[test]
    fn a_file_without_an_end_is_refused_with_the_bound() {
        let error = pairs(&[PathBuf::from("/dev/zero")], &[]).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("/dev/zero: more than 1 MiB"), "{said}");
        let large = file(&format!("A={}\n", "x".repeat((1 << 20) - 3)));
        assert_eq!(pairs(&[large.path().to_owned()], &[]).unwrap().len(), 1);
    }

    #[test]
    fn bytes_need_not_be_text() {
        let word = OsString::from_vec(b"A=\xff".to_vec());
        let variables = collect(&[], &[word], here).unwrap();
        assert_eq!(
            variables,
            [(ByteBuf::from("A"), ByteBuf::from(b"\xff".to_vec()))]
        );
    }
}
