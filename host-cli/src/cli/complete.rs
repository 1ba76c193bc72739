//! Completion on the command line: of commands and flags, and of the names of sandboxes and images.
//!
//! ```text
//!  `sovereign completions bash` ─▶ a script that asks this program at each Tab, by a variable
//!  SOVEREIGN_COMPLETE=fish sovereign -- WORDS ─▶ the candidates: from the definition of the command
//!                                               line, the registry's records, the image store, and
//!                                               a sandbox's agent for the paths in it
//! ```
//!
//! Nothing is probed on the way, and an agent has a second to answer: a Tab must not wait. What cannot
//! be read has no candidates.

mod paths;
mod shells;
mod words;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::sync::Arc;

use clap::{Command, CommandFactory};
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate, complete};
use clap_complete::env::{EnvCompleter, Shells};

pub(super) use self::paths::Found;
use self::paths::Place;
use self::shells::Asked;

use super::args::Cli;
use super::args::values::SIGNALS;
use super::report::Stdout;
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
    if let Some(script) = shells::script(shell) {
        return to.write_all(script.as_bytes());
    }
    let shells = Shells::builtins();
    let shell = shells
        .completer(shell)
        .ok_or_else(|| io::Error::other(format!("no script for {shell}")))?;
    shell.write_registration(ASKED, PROGRAM, PROGRAM, PROGRAM, to)
}

/// Answers a shell, if it is one that asks. Returns what this program exits with.
pub(super) fn answer(args: &[OsString]) -> Option<u8> {
    let shell = std::env::var_os(ASKED)?;
    let shell = shell.to_str()?;
    let answered = match Asked::by(shell, args) {
        Some(asked) => write_answer(&asked),
        None => write_by_library(Shells::builtins().completer(shell)?, args),
    };
    Some(u8::from(answered.is_err()))
}

fn write_answer(asked: &Asked) -> io::Result<()> {
    let words = asked.words.clone();
    let last = words.len().saturating_sub(1);
    let here = std::env::current_dir().ok();
    let candidates = complete(&mut command(&words), words, last, here.as_deref())?;
    Stdout.write_all(asked.tell(&candidates).as_bytes())?;
    Stdout.flush()
}

/// Answers a shell of which only the library knows how it asks.
fn write_by_library(shell: &dyn EnvCompleter, args: &[OsString]) -> io::Result<()> {
    let words = args.iter().skip(1).skip_while(|word| *word != "--").skip(1);
    let words: Vec<_> = words.cloned().collect();
    let mut text = Vec::new();
    let here = std::env::current_dir().ok();
    shell.write_complete(&mut command(&words), words, here.as_deref(), &mut text)?;
    Stdout.write_all(&text)?;
    Stdout.flush()
}

/// The definition of the command line, with what is known of names where these words were typed.
fn command(words: &[OsString]) -> Command {
    let mut command = Cli::command();
    command.build();
    // What stands behind the program's name and the command's, without the word that is asked about.
    let typed = words.get(2..words.len().saturating_sub(1));
    let typed = typed.unwrap_or_default();
    named(command, &Arc::new(Place::of(words)), &Arc::from(typed))
}

/// Gives every argument that is a name its candidates.
fn named(command: Command, place: &Arc<Place>, typed: &Arc<[OsString]>) -> Command {
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
                (Some("SANDBOX"), _) => {
                    let typed = Arc::clone(typed);
                    arg.add(ArgValueCandidates::new(move || {
                        // Of several, none is wanted twice.
                        let mut names = system::sandboxes(wanted);
                        names.retain(|(name, _)| !typed.iter().any(|word| word == name.as_str()));
                        candidates(names)
                    }))
                }
                (Some("SIGNAL"), _) => arg.add(ArgValueCandidates::new(|| {
                    SIGNALS.into_iter().map(CompletionCandidate::new).collect()
                })),
                (_, "filters") => arg.add(ArgValueCandidates::new(|| {
                    system::filters()
                        .into_iter()
                        .map(CompletionCandidate::new)
                        .collect()
                })),
                (_, "image") | (Some("NAME"), "names") => {
                    arg.add(ArgValueCandidates::new(|| candidates(system::images())))
                }
                (Some("SRC" | "DST"), _) => {
                    let place = Arc::clone(place);
                    arg.add(ArgValueCompleter::new(move |typed: &OsStr| {
                        place.sides(typed)
                    }))
                }
                (Some("PATH"), "path" | "paths") | (Some("NEW"), "to") => {
                    let place = Arc::clone(place);
                    arg.add(ArgValueCompleter::new(move |typed: &OsStr| {
                        place.paths(typed)
                    }))
                }
                (Some("FILE" | "PATH"), _) => arg.value_hint(clap::ValueHint::FilePath),
                _ => arg,
            }
        })
        .mut_subcommands(|command| named(command, place, typed))
}

fn candidates(names: Vec<Named>) -> Vec<CompletionCandidate> {
    let candidate = |(name, about): Named| CompletionCandidate::new(name).help(Some(about.into()));
    names.into_iter().map(candidate).collect()
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
        let found = complete(&mut command(&words), words, last, None).unwrap();
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
        assert_eq!(suggested(&["kill", "-s", "TE"]), ["TERM"]);
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
