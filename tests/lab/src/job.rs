//! A program to run in the lab, with the files it needs.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

/// How the lab's clock runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As fast as it goes: for tests.
    Functional,
    /// One virtual nanosecond for each instruction: for measuring.
    Counted,
}

/// A program to run in the lab.
#[derive(Debug, Clone)]
pub struct Job {
    /// Program and arguments, as seen inside.
    pub argv: Vec<OsString>,
    /// Added to the lab's environment (`PATH=/bin`, `HOME=/root`).
    pub env: Vec<(String, OsString)>,
    /// Files and folders to bring in: from here, to an absolute path inside. Symbolic links are
    /// followed.
    pub files: Vec<(PathBuf, String)>,
    /// Where to put what the program leaves in `/out`.
    pub out: Option<PathBuf>,
    /// How the clock runs.
    pub mode: Mode,
    /// The lab's memory.
    pub memory_mib: u32,
    /// The room on the lab's disk, beside what is brought along.
    pub disk_mib: u32,
    /// How long the whole may take.
    pub deadline: Duration,
    /// How long the program may be silent.
    pub silence: Duration,
}

impl Job {
    /// Returns a job that runs `argv` and brings nothing along.
    #[must_use]
    pub fn new<A: Into<OsString>>(argv: impl IntoIterator<Item = A>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            files: Vec::new(),
            out: None,
            mode: Mode::Functional,
            memory_mib: 4096,
            disk_mib: 2048,
            deadline: Duration::from_secs(30 * 60),
            silence: Duration::from_secs(10 * 60),
        }
    }

    /// Brings a file or a folder into the lab.
    #[must_use]
    pub fn with_file(mut self, from: impl Into<PathBuf>, to: impl Into<String>) -> Self {
        self.files.push((from.into(), to.into()));
        self
    }

    /// Returns the shell script that the lab's init runs.
    pub(crate) fn script(&self) -> Vec<u8> {
        let mut script = b"#!/bin/sh\n".to_vec();
        for (name, value) in &self.env {
            script.extend_from_slice(format!("export {name}=").as_bytes());
            script.extend(quoted(value));
            script.push(b'\n');
        }
        script.extend_from_slice(b"exec");
        for argument in &self.argv {
            script.push(b' ');
            script.extend(quoted(argument));
        }
        script.push(b'\n');
        script
    }
}

/// Quotes for a POSIX shell: inside single quotes only the single quote itself is special.
fn quoted(text: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for &byte in text.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn script_passes_arguments_and_environment_unchanged() {
        let odd = OsStr::from_bytes(b"a'b \"$HOME\" \\ \xff\n*").to_owned();
        let mut job = Job::new([
            OsString::from("printf"),
            "%s|%s".into(),
            odd.clone(),
            "".into(),
        ]);
        job.env.push(("ODD".to_owned(), odd.clone()));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("job");
        std::fs::write(&path, job.script()).unwrap();
        let output = Command::new("sh").arg(&path).output().unwrap();
        let mut expected = odd.as_bytes().to_vec();
        expected.push(b'|');
        assert_eq!(output.stdout, expected);
    }
}
