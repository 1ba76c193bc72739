//! What to execute: an exec request, resolved against the sandbox.

use std::ffi::{CStr, CString};

use agent_protocol::message::{AgentError, ExecRequest};
use rustix::process::{Gid, Uid, getgid, getuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::linux::exec::account::{Account, Database};
use crate::linux::fork::Identity;

/// `PATH` of commands that are given none.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `TERM` of commands with a terminal that are given none.
const DEFAULT_TERM: &[u8] = b"xterm";

/// A command, in the form that the kernel wants it.
#[derive(Debug)]
pub(crate) struct Command {
    /// The files to try, in order.
    pub(crate) candidates: Vec<CString>,
    pub(crate) argv: Vec<CString>,
    /// `NAME=value` each.
    pub(crate) env: Vec<CString>,
    pub(crate) directory: CString,
    /// Whether the command may start in `/` when there is no such directory.
    pub(crate) directory_is_default: bool,
    pub(crate) account: Account,
    /// Whether the agent must change its user to be `account`.
    changes_user: bool,
}

impl Command {
    /// Resolves a request.
    ///
    /// # Errors
    ///
    /// [`AgentError`] that names what is wrong with it.
    pub(crate) fn resolve(
        request: &ExecRequest,
        files: &impl Database,
    ) -> Result<Self, AgentError> {
        let account =
            Account::resolve(request.user.as_deref(), files).map_err(AgentError::BadUser)?;
        let own = (getuid().as_raw(), getgid().as_raw());
        let is_root = getuid().is_root();
        if !is_root && own != (account.uid, account.gid) {
            return Err(AgentError::System {
                doing: format!("becoming user {}", account.name.escape_ascii()),
                reason: "the agent in this sandbox is not root".to_owned(),
            });
        }
        let env = environment(request, &account)?;
        let mut argv = Vec::with_capacity(request.argv.len());
        for (index, argument) in request.argv.iter().enumerate() {
            argv.push(c_string(argument, || format!("argument {index}"))?);
        }
        let program = request.argv.first().filter(|program| !program.is_empty());
        let program =
            program.ok_or_else(|| AgentError::BadRequest("no program was given".to_owned()))?;
        let directory = request
            .cwd
            .as_ref()
            .map_or(account.home.as_slice(), |cwd| cwd.as_slice());
        // Where groups cannot be changed at all, root must still be able to stay root.
        let is_own = own == (account.uid, account.gid) && account.groups == [account.gid];
        Ok(Self {
            candidates: candidates(program, search_path(&env)),
            argv,
            env: env.into_iter().map(|variable| variable.text).collect(),
            directory: c_string(directory, || "working directory".to_owned())?,
            directory_is_default: request.cwd.is_none(),
            account,
            changes_user: is_root && !is_own,
        })
    }

    /// Who the child has to become.
    pub(crate) fn identity(&self) -> Option<Identity<'_>> {
        self.changes_user.then_some(Identity {
            uid: self.account.uid,
            gid: self.account.gid,
            groups: &self.account.groups,
        })
    }

    /// Gives this process the command's view of the file system, for good: root of a namespace
    /// without further capabilities sees less than the command would have.
    pub(crate) fn see_as_account(&self) {
        let Some(identity) = self.identity() else {
            return;
        };
        let groups: Vec<_> = identity.groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
        // What cannot be seen for want of one of these is only explained less well.
        let _ = set_thread_groups(&groups);
        let _ = set_thread_res_gid(None, gid, None);
        let _ = set_thread_res_uid(None, uid, None);
    }

    /// The program as the request named it, for messages.
    pub(crate) fn program(&self) -> String {
        self.argv
            .first()
            .map_or_else(String::new, |program| shown(program.as_bytes()))
    }
}

/// Bytes as text for a message, cut at a length that a terminal can bear.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const MAX_SHOWN: usize = 512;
    match bytes.get(..MAX_SHOWN) {
        Some(start) if bytes.len() > MAX_SHOWN => format!("{}…", String::from_utf8_lossy(start)),
        Some(_) | None => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// A variable of the environment.
struct Variable {
    text: CString,
    name_len: usize,
}

impl Variable {
    fn name(&self) -> &[u8] {
        self.text
            .as_bytes()
            .get(..self.name_len)
            .unwrap_or_default()
    }

    fn value(&self) -> &[u8] {
        self.text
            .as_bytes()
            .get(self.name_len + 1..)
            .unwrap_or_default()
    }
}

/// The request's environment, and defaults for what every program expects.
fn environment(request: &ExecRequest, account: &Account) -> Result<Vec<Variable>, AgentError> {
    let mut env = Vec::with_capacity(request.env.len() + 5);
    for (name, value) in &request.env {
        env.push(variable(name, value)?);
    }
    let defaults = [
        (&b"PATH"[..], DEFAULT_PATH),
        (b"HOME", &account.home),
        (b"USER", &account.name),
        (b"LOGNAME", &account.name),
        (b"TERM", DEFAULT_TERM),
    ];
    let wanted = if request.tty.is_some() { 5 } else { 4 };
    for (name, value) in defaults.into_iter().take(wanted) {
        if !env
            .iter()
            .any(|variable: &Variable| variable.name() == name)
        {
            env.push(variable(name, value)?);
        }
    }
    Ok(env)
}

fn variable(name: &[u8], value: &[u8]) -> Result<Variable, AgentError> {
    if name.is_empty() || name.contains(&b'=') {
        let problem = format!("{:?} is no name for an environment variable", shown(name));
        return Err(AgentError::BadRequest(problem));
    }
    let text = [name, b"=", value].concat();
    let text = c_string(&text, || format!("environment variable {}", shown(name)))?;
    Ok(Variable {
        text,
        name_len: name.len(),
    })
}

fn search_path(env: &[Variable]) -> &[u8] {
    let path = env.iter().find(|variable| variable.name() == b"PATH");
    path.map_or(DEFAULT_PATH, Variable::value)
}

/// The files that a program's name can mean. An empty part of the path is the working directory.
fn candidates(program: &[u8], path: &[u8]) -> Vec<CString> {
    if program.contains(&b'/') {
        return CString::new(program).into_iter().collect();
    }
    path.split(|byte| *byte == b':')
        .filter_map(|directory| {
            let separator: &[u8] = if directory.is_empty() { b"" } else { b"/" };
            CString::new([directory, separator, program].concat()).ok()
        })
        .collect()
}

fn c_string(bytes: &[u8], what: impl FnOnce() -> String) -> Result<CString, AgentError> {
    CString::new(bytes).map_err(|_| AgentError::BadRequest(format!("{} contains a NUL", what())))
}

/// The root, where a command starts whose user's home does not exist.
pub(crate) const ROOT: &CStr = c"/";

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::message::TerminalSize;
    use serde_bytes::ByteBuf;

    struct NoFiles;

    impl Database for NoFiles {
        fn users(&self) -> Vec<u8> {
            let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
            format!("me:x:{uid}:{gid}::/home/me:/bin/sh\n").into_bytes()
        }

        fn groups(&self) -> Vec<u8> {
            Vec::new()
        }
    }

    fn request(argv: &[&str], env: &[(&str, &str)]) -> ExecRequest {
        let env = env.iter().map(|(name, value)| {
            (
                ByteBuf::from(name.as_bytes()),
                ByteBuf::from(value.as_bytes()),
            )
        });
        ExecRequest {
            env: env.collect(),
            user: Some("me".to_owned()),
            ..ExecRequest::new(argv.iter().copied())
        }
    }

    fn texts(strings: &[CString]) -> Vec<&str> {
        strings
            .iter()
            .map(|string| string.to_str().unwrap())
            .collect()
    }

    #[test]
    fn missing_variables_get_defaults_and_others_stay() {
        let request = request(&["x"], &[("HOME", "/elsewhere"), ("A", ""), ("A", "2")]);
        let command = Command::resolve(&request, &NoFiles).unwrap();
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        assert_eq!(
            texts(&command.env),
            [
                "HOME=/elsewhere",
                "A=",
                "A=2",
                path,
                "USER=me",
                "LOGNAME=me"
            ]
        );
        assert_eq!(command.directory.as_c_str(), c"/home/me");
    }

    #[test]
    fn terminal_gets_a_term() {
        let tty = Some(TerminalSize {
            rows: 24,
            columns: 80,
        });
        let request = ExecRequest {
            tty,
            ..request(&["x"], &[])
        };
        let command = Command::resolve(&request, &NoFiles).unwrap();
        assert!(texts(&command.env).contains(&"TERM=xterm"));
    }

    #[test]
    fn program_is_searched_in_the_commands_own_path() {
        let request = request(&["tool", "-x"], &[("PATH", "/a::/b/")]);
        let command = Command::resolve(&request, &NoFiles).unwrap();
        assert_eq!(texts(&command.candidates), ["/a/tool", "tool", "/b//tool"]);
        assert_eq!(texts(&command.argv), ["tool", "-x"]);
    }

    #[test]
    fn program_with_slash_is_not_searched() {
        let command = Command::resolve(&request(&["./tool"], &[]), &NoFiles).unwrap();
        assert_eq!(texts(&command.candidates), ["./tool"]);
    }

    #[test]
    fn senseless_requests_are_refused_by_name() {
        let refusal = |argv: &[&str], env: &[(&str, &str)]| {
            Command::resolve(&request(argv, env), &NoFiles)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(refusal(&[], &[]), "invalid request: no program was given");
        assert_eq!(refusal(&[""], &[]), "invalid request: no program was given");
        assert_eq!(
            refusal(&["a", "b\0c"], &[]),
            "invalid request: argument 1 contains a NUL"
        );
        assert_eq!(
            refusal(&["a"], &[("X=Y", "1")]),
            "invalid request: \"X=Y\" is no name for an environment variable"
        );
        assert_eq!(
            refusal(&["a"], &[("X", "\0")]),
            "invalid request: environment variable X contains a NUL"
        );
    }
}
