//! Completion on the command line: of commands and flags, and of the names of sandboxes and images.
//!
//! ```text
//!  `sovereign completions bash` ─▶ a script that asks this program at each Tab, by a variable
//!  SOVEREIGN_COMPLETE=bash sovereign -- WORDS ─▶ the candidates: from the definition of the command
//!                                               line, the registry's records, the image store
//! ```
//!
//! Nothing is probed and nobody is asked on the way: a Tab must not wait. What cannot be read has no
//! candidates.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_complete::engine::{
    ArgValueCandidates, ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter,
};
use clap_complete::env::{EnvCompleter, Shells};

use super::args::Cli;
use super::system;

/// The variable by which a shell's script asks.
const ASKED: &str = "SOVEREIGN_COMPLETE";

/// How this program is called.
const PROGRAM: &str = "sovereign";

/// Which sandboxes a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Those that run.
    Running,
    /// Those that do not.
    Idle,
    /// All of them.
    Any,
}

/// A name that may be meant, with what is to be said of it.
pub(super) type Named = (String, String);

/// Writes the script by which a shell asks.
///
/// # Errors
///
/// If there is no script for this shell, or it cannot be written.
pub(super) fn write_script(shell: &str, to: &mut dyn Write) -> io::Result<()> {
    let shells = Shells::builtins();
    let shell = shells
        .completer(shell)
        .ok_or_else(|| io::Error::other(format!("no script for {shell}")))?;
    shell.write_registration(ASKED, PROGRAM, PROGRAM, PROGRAM, to)
}

/// Answers a shell, if it is one that asks. Returns what this program exits with.
pub(super) fn answer(args: &[OsString]) -> Option<u8> {
    let shell = std::env::var_os(ASKED)?;
    let shells = Shells::builtins();
    let shell = shells.completer(shell.to_str()?)?;
    Some(u8::from(write_answer(shell, args).is_err()))
}

fn write_answer(shell: &dyn EnvCompleter, args: &[OsString]) -> io::Result<()> {
    let words = args.iter().skip(1).skip_while(|word| *word != "--").skip(1);
    let mut text = Vec::new();
    let here = std::env::current_dir().ok();
    let words = words.cloned().collect();
    shell.write_complete(&mut command(), words, here.as_deref(), &mut text)?;
    io::stdout().write_all(&text)
}

/// The definition of the command line, with what is known of names.
fn command() -> Command {
    let mut command = Cli::command();
    command.build();
    named(command)
}

/// Gives every argument that is a name its candidates.
fn named(command: Command) -> Command {
    let wanted = match command.get_name() {
        "start" => Wanted::Idle,
        "rm" | "inspect" | "logs" | "wait" | "rename" => Wanted::Any,
        _ => Wanted::Running,
    };
    command
        .mut_args(|arg| {
            let value = arg.get_value_names().and_then(<[_]>::first);
            let value = value.map(|name| name.as_str().to_owned());
            match (value.as_deref(), arg.get_id().as_str()) {
                (Some("SANDBOX"), _) => arg.add(ArgValueCandidates::new(move || {
                    candidates(system::sandboxes(wanted))
                })),
                (_, "image") | (Some("NAME"), "names") => {
                    arg.add(ArgValueCandidates::new(|| candidates(system::images())))
                }
                (Some("SRC" | "DST"), _) => arg.add(ArgValueCompleter::new(places)),
                (Some("FILE" | "PATH"), id) if id != "path" && id != "paths" => {
                    arg.value_hint(clap::ValueHint::FilePath)
                }
                _ => arg,
            }
        })
        .mut_subcommands(named)
}

fn candidates(names: Vec<Named>) -> Vec<CompletionCandidate> {
    let candidate = |(name, about): Named| CompletionCandidate::new(name).help(Some(about.into()));
    names.into_iter().map(candidate).collect()
}

/// One side of a copy: a path here, or a sandbox and a colon.
fn places(typed: &OsStr) -> Vec<CompletionCandidate> {
    let start = typed.to_string_lossy();
    let mut all = PathCompleter::any().complete(typed);
    let sandboxes = system::sandboxes(Wanted::Running).into_iter();
    let fitting = sandboxes.filter(|(name, _)| name.starts_with(start.as_ref()));
    all.extend(candidates(
        fitting.map(|(name, about)| (name + ":", about)).collect(),
    ));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is suggested for the last of these words.
    fn suggested(words: &[&str]) -> Vec<String> {
        let words: Vec<_> = std::iter::once(&PROGRAM)
            .chain(words)
            .map(OsString::from)
            .collect();
        let last = words.len() - 1;
        let found = clap_complete::engine::complete(&mut command(), words, last, None).unwrap();
        let text = |it: &CompletionCandidate| it.get_value().to_string_lossy().into_owned();
        found.iter().map(text).collect()
    }

    #[test]
    fn commands_flags_and_values_are_suggested() {
        assert!(suggested(&["ins"]).contains(&"inspect".to_owned()));
        assert!(!suggested(&["s"]).contains(&"supervise".to_owned()));
        assert!(suggested(&["run", "--min"]).contains(&"--min-isolation".to_owned()));
        assert_eq!(suggested(&["run", "--tier", "mic"]), ["microvm"]);
        assert_eq!(suggested(&["fs", "mk"]), ["mkdir"]);
    }

    #[test]
    fn every_shell_has_a_script_that_asks() {
        for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
            let mut script = Vec::new();
            write_script(shell, &mut script).unwrap();
            assert!(
                String::from_utf8(script).unwrap().contains(ASKED),
                "{shell}"
            );
        }
        assert!(write_script("sh", &mut Vec::new()).is_err());
    }
}
