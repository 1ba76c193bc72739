//! Why a command could not be started, as precisely as can be found out afterwards.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agent_protocol::limits::{Resource, ResourceLimit};
use agent_protocol::message::AgentError;
use rustix::fs::{Access, FileType};
use rustix::io::Errno;
use rustix::process::getrlimit;

use crate::linux::exec::command::{Command, shown};
use crate::linux::fork::{SpawnError, Step};
use crate::linux::limits::known;
use crate::linux::reason::reason;

/// MAX_ARG_STRLEN of linux/binfmts.h: the longest single argument or variable, with its NUL.
const MAX_STRING: usize = 32 * 4096;
/// The kernel allows no more for all of them, whatever the stack's limit (fs/exec.c).
const MAX_TOTAL: u64 = 6 * 1024 * 1024;
/// The kernel always allows as much (ARG_MAX of linux/limits.h).
const MIN_TOTAL: u64 = 128 * 1024;
/// As much of a program as tells what it is (BINPRM_BUF_SIZE).
const START_LEN: u64 = 256;

/// What to tell the host of a command that could not be started.
pub(crate) fn explain(
    command: &Command,
    limits: &[ResourceLimit],
    failure: &SpawnError,
) -> AgentError {
    let errno = Errno::from_raw_os_error(failure.errno);
    let system = |doing: &str| AgentError::System {
        doing: doing.to_owned(),
        reason: reason(errno),
    };
    match failure.step {
        Step::Clone => system("creating a process for the command"),
        Step::Session => system("starting a session for the command"),
        Step::Terminal => system("giving the command its terminal"),
        Step::Stdio => system("giving the command its input and output"),
        Step::Cgroup => system("putting the command in a cgroup of its own"),
        Step::Limit(index) => explain_limit(limits.get(index), errno),
        Step::Identity => system(&format!("becoming user {}", shown(&command.account.name))),
        Step::Directory => AgentError::BadDirectory {
            path: shown(command.directory.as_bytes()),
            reason: reason(errno),
        },
        Step::Execute(candidate) => {
            let path = command
                .candidates
                .get(candidate)
                .map_or(c"", CString::as_c_str);
            explain_execution(command, limits, path, errno)
        }
    }
}

/// setrlimit(2): only who has CAP_SYS_RESOURCE raises a hard limit, and nobody that of open files
/// above the kernel's own.
fn explain_limit(limit: Option<&ResourceLimit>, errno: Errno) -> AgentError {
    let Some(limit) = limit else {
        return AgentError::BadRequest(reason(errno));
    };
    let own = getrlimit(known(limit.resource)).maximum;
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .filter(|_| limit.resource == Resource::Nofile);
    let is_above = |bound: u64| limit.hard.is_none_or(|hard| hard > bound);
    let why = match (errno, own, most) {
        (Errno::PERM, _, Some(most)) if is_above(most) => {
            format!("the kernel's own limit is {most} (fs.nr_open)")
        }
        (Errno::PERM, Some(own), _) if is_above(own) => {
            format!("the hard limit in this sandbox is {own}, and nothing here may raise it")
        }
        (Errno::INVAL, ..) => "the soft limit is above the hard one".to_owned(),
        (other, ..) => reason(other),
    };
    AgentError::BadLimit {
        limit: limit.to_string(),
        reason: why,
    }
}

fn explain_execution(
    command: &Command,
    limits: &[ResourceLimit],
    path: &CStr,
    errno: Errno,
) -> AgentError {
    let not_executable = |why: String| AgentError::NotExecutable {
        program: shown(path.to_bytes()),
        reason: why,
    };
    match errno {
        Errno::NOENT | Errno::NOTDIR => match missing_interpreter(command) {
            Some((program, interpreter)) => AgentError::NotExecutable {
                program,
                reason: format!("its interpreter {interpreter} does not exist"),
            },
            None => AgentError::NotFound(command.program()),
        },
        Errno::TOOBIG => AgentError::TooLarge(explain_size(command, limits)),
        // execve(2): the user has more processes than the command's limit allows.
        Errno::AGAIN => not_executable("its user has more processes than nproc allows".to_owned()),
        Errno::ACCESS => not_executable(explain_access(path)),
        Errno::NOEXEC => not_executable(explain_format(path)),
        other => not_executable(reason(other)),
    }
}

/// A candidate that does exist, and what the kernel missed in its place.
fn missing_interpreter(command: &Command) -> Option<(String, String)> {
    let name = command.program();
    let named_by_path = name.contains('/');
    command.candidates.iter().find_map(|candidate| {
        // The name of a command that is given with a slash counts from the working directory.
        let path = match named_by_path && !name.starts_with('/') {
            true => Path::new(os_str(&command.directory)).join(os_str(candidate)),
            false => os_str(candidate).into(),
        };
        let start = read_start(&path)?;
        let interpreter = script_interpreter(&start).or_else(|| elf_interpreter(&path))?;
        let missing = rustix::fs::access(interpreter.as_slice(), Access::EXISTS).is_err();
        missing.then(|| (shown(candidate.as_bytes()), shown(&interpreter)))
    })
}

/// The program after `#!`, up to a blank.
fn script_interpreter(start: &[u8]) -> Option<Vec<u8>> {
    let line = start
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let word = line.trim_ascii().split(u8::is_ascii_whitespace).next()?;
    // A script that was written on Windows: its interpreter's name ends with a carriage return, and
    // trimming has hidden just what is wrong.
    let has_return = line.ends_with(b"\r") && line.trim_ascii() == word;
    let mut interpreter = word.to_vec();
    if has_return {
        interpreter.push(b'\r');
    }
    (!word.is_empty()).then_some(interpreter)
}

/// PT_INTERP of a 64-bit little-endian ELF file.
fn elf_interpreter(path: &Path) -> Option<Vec<u8>> {
    const MAX_HEADERS: u64 = 64 * 1024;
    const PT_INTERP: u32 = 3;
    let mut image = Vec::new();
    File::open(path)
        .ok()?
        .take(MAX_HEADERS)
        .read_to_end(&mut image)
        .ok()?;
    if !image.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let field = |at: usize| image.get(at..at.checked_add(8)?)?.first_chunk().copied();
    let table = usize::try_from(u64::from_le_bytes(field(32)?)).ok()?;
    let [a, b, count_low, count_high, ..] = field(54)?;
    let entry_size = usize::from(u16::from_le_bytes([a, b]));
    let count = usize::from(u16::from_le_bytes([count_low, count_high]));
    let entry = (0..count)
        .filter_map(|index| index.checked_mul(entry_size)?.checked_add(table))
        .find(|at| image.get(*at..at.saturating_add(4)) == Some(&PT_INTERP.to_le_bytes()))?;
    let start = usize::try_from(u64::from_le_bytes(field(entry.checked_add(8)?)?)).ok()?;
    let size = usize::try_from(u64::from_le_bytes(field(entry.checked_add(32)?)?)).ok()?;
    let name = image.get(start..start.checked_add(size)?)?;
    name.split(|byte| *byte == 0).next().map(<[u8]>::to_vec)
}

fn explain_access(path: &CStr) -> String {
    match rustix::fs::stat(path).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::Directory) => "it is a directory".to_owned(),
        Ok(FileType::RegularFile) | Err(_) => reason(Errno::ACCESS),
        Ok(_) => "it is not a regular file".to_owned(),
    }
}

fn explain_format(path: &CStr) -> String {
    let start = read_start(Path::new(os_str(path))).unwrap_or_default();
    if start.is_empty() {
        "it is empty".to_owned()
    } else if start.starts_with(b"\x7fELF") {
        "it is a program for another kind of machine".to_owned()
    } else if start.starts_with(b"#!") {
        "its first line names no interpreter".to_owned()
    } else if start
        .iter()
        .all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
    {
        "it is text whose first line is not #! and an interpreter".to_owned()
    } else {
        reason(Errno::NOEXEC)
    }
}

/// Which limit was exceeded, with numbers.
fn explain_size(command: &Command, limits: &[ResourceLimit]) -> String {
    for (index, argument) in command.argv.iter().enumerate() {
        let size = argument.as_bytes_with_nul().len();
        if size > MAX_STRING {
            return format!("argument {index} has {size} bytes, and one may have {MAX_STRING}");
        }
    }
    for variable in &command.env {
        let size = variable.as_bytes_with_nul().len();
        if size > MAX_STRING {
            let name = variable
                .as_bytes()
                .split(|byte| *byte == b'=')
                .next()
                .unwrap_or_default();
            let name = shown(name);
            return format!("variable {name} has {size} bytes, and one may have {MAX_STRING}");
        }
    }
    let strings = || command.argv.iter().chain(&command.env);
    let total: usize = strings()
        .map(|string| string.as_bytes_with_nul().len() + 8)
        .sum();
    let own = getrlimit(known(Resource::Stack)).current;
    let set = limits
        .iter()
        .rfind(|limit| limit.resource == Resource::Stack);
    let stack = set.map_or(own, |limit| limit.soft).unwrap_or(u64::MAX);
    let limit = (stack / 4).clamp(MIN_TOTAL, MAX_TOTAL);
    format!(
        "{total} bytes in {} strings, and the system takes {limit}",
        strings().count()
    )
}

fn read_start(path: &Path) -> Option<Vec<u8>> {
    let mut start = Vec::new();
    let read = |file: File| -> io::Result<usize> { file.take(START_LEN).read_to_end(&mut start) };
    let is_file = path.metadata().is_ok_and(|metadata| metadata.is_file());
    (is_file && File::open(path).and_then(read).is_ok()).then_some(start)
}

fn os_str(text: &CStr) -> &OsStr {
    OsStr::from_bytes(text.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreter_of_a_script_is_found() {
        let interpreter = |text: &str| {
            script_interpreter(text.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
        };
        assert_eq!(interpreter("#!/bin/sh\n"), Some("/bin/sh".to_owned()));
        assert_eq!(
            interpreter("#! /usr/bin/env python3\n"),
            Some("/usr/bin/env".to_owned())
        );
        assert_eq!(
            interpreter("#!/bin/sh\r\nls\r\n"),
            Some("/bin/sh\r".to_owned())
        );
        assert_eq!(interpreter("#!\n"), None);
        assert_eq!(interpreter("ls\n"), None);
    }

    #[test]
    fn interpreter_of_a_program_is_found() {
        let shell = std::fs::canonicalize("/bin/sh").unwrap();
        let interpreter = elf_interpreter(&shell).unwrap();
        assert!(
            Path::new(OsStr::from_bytes(&interpreter)).exists(),
            "{interpreter:?}"
        );
    }
}
