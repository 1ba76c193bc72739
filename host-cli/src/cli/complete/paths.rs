//! Paths in a sandbox, by what is in its folders.

use std::ffi::{OsStr, OsString};

use clap::{ArgMatches, CommandFactory};
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};

use super::{PROGRAM, Wanted, candidates};
use crate::cli::args::Cli;
use crate::cli::system;

/// A file of a sandbox that may be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Found {
    /// What it is called in its folder.
    pub(in crate::cli) name: String,
    pub(in crate::cli) is_folder: bool,
}

/// Where a command looks for files, as far as it was typed.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    sandbox: Option<String>,
    user: Option<String>,
}

impl Place {
    /// By the words before the one that is asked about.
    pub(super) fn of(words: &[OsString]) -> Self {
        let is_of_files = words.iter().any(|word| word == "fs" || word == "cp");
        let before = words.split_last().filter(|_| is_of_files);
        // What is typed need not be whole yet.
        let known = before.and_then(|(_, before)| {
            let command = Cli::command().ignore_errors(true);
            let before = [OsString::from(PROGRAM)]
                .into_iter()
                .chain(before.iter().skip(1).cloned());
            command.try_get_matches_from(before).ok()
        });
        let mut place = Self::default();
        let mut known = known.as_ref();
        while let Some(matches) = known {
            place.sandbox = value(matches, "sandbox").or(place.sandbox);
            place.user = value(matches, "user").or(place.user);
            known = matches.subcommand().map(|(_, matches)| matches);
        }
        place
    }

    /// What a path in the sandbox that is named before it may become.
    pub(super) fn paths(&self, typed: &OsStr) -> Vec<CompletionCandidate> {
        let Some((sandbox, typed)) = self.sandbox.as_deref().zip(typed.to_str()) else {
            return Vec::new();
        };
        in_sandbox(sandbox, self.user.as_deref(), typed, "")
    }

    /// One side of a copy: a path here, a sandbox and a colon, or a path there.
    pub(super) fn sides(&self, typed: &OsStr) -> Vec<CompletionCandidate> {
        let start = typed.to_string_lossy();
        if let Some((sandbox, path)) = start.split_once(':')
            && !sandbox.contains('/')
        {
            let before = format!("{sandbox}:");
            return in_sandbox(sandbox, self.user.as_deref(), path, &before);
        }
        let mut all = PathCompleter::any().complete(typed);
        let sandboxes = system::sandboxes(Wanted::Running).into_iter();
        let fitting = sandboxes.filter(|(name, _)| name.starts_with(start.as_ref()));
        all.extend(candidates(
            fitting.map(|(name, about)| (name + ":", about)).collect(),
        ));
        all
    }
}

fn value(matches: &ArgMatches, name: &str) -> Option<String> {
    let found = matches.try_get_one::<String>(name);
    found.ok().flatten().cloned()
}

/// What a path in a sandbox may become, with something before it.
fn in_sandbox(
    sandbox: &str,
    user: Option<&str>,
    typed: &str,
    before: &str,
) -> Vec<CompletionCandidate> {
    let (folder, start) = split(typed);
    let place = if folder.is_empty() { "." } else { folder };
    let found = system::files(sandbox, user, place, start);
    let mut all: Vec<_> = found
        .into_iter()
        .map(|found| offered(found, before, folder))
        .collect();
    all.sort();
    all
}

fn offered(found: Found, before: &str, folder: &str) -> CompletionCandidate {
    let slash = if found.is_folder { "/" } else { "" };
    let path = format!("{before}{folder}{}{slash}", found.name);
    // As in the shells: shown when there is nothing else, or when the dot is typed.
    CompletionCandidate::new(path).hide(found.name.starts_with('.'))
}

/// A path's folder with its slash, and what comes behind.
fn split(path: &str) -> (&str, &str) {
    path.split_at(path.rfind('/').map_or(0, |at| at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(words: &[&str]) -> (Option<String>, Option<String>) {
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        let Place { sandbox, user } = Place::of(&words);
        (sandbox, user)
    }

    #[test]
    fn the_sandbox_is_the_one_that_was_typed() {
        let of = |sandbox: &str| (Some(sandbox.to_owned()), None);
        assert_eq!(place(&["sovereign", "fs", "ls", "web", "a"]), of("web"));
        assert_eq!(
            place(&["sovereign", "fs", "ls", "web", "a", "b"]),
            of("web")
        );
        assert_eq!(
            place(&["x", "fs", "cat", "--offset", "5", "web", ""]),
            of("web")
        );
        assert_eq!(
            place(&["x", "--json", "fs", "mv", "web", "a", ""]),
            of("web")
        );
        let (sandbox, user) = place(&["x", "fs", "-u", "root", "rm", "-r", "web", ""]);
        assert_eq!(
            (sandbox.as_deref(), user.as_deref()),
            (Some("web"), Some("root"))
        );
        let (sandbox, user) = place(&["x", "cp", "-u", "root", "web:a"]);
        assert_eq!((sandbox, user.as_deref()), (None, Some("root")));
        assert_eq!(place(&["sovereign", "fs", "ls", "web"]), (None, None));
        assert_eq!(place(&["sovereign", "fs", "no-such", ""]).1, None);
        assert_eq!(place(&["sovereign"]), (None, None));
    }

    #[test]
    fn folders_go_on_and_files_end() {
        let text = |name: &str, is_folder, folder| {
            let name = name.to_owned();
            let offer = offered(Found { name, is_folder }, "web:", folder);
            offer.get_value().to_string_lossy().into_owned()
        };
        assert_eq!(text("a b", true, "/x/"), "web:/x/a b/");
        assert_eq!(text("f:1", false, ""), "web:f:1");
        assert_eq!(split("a/b/c"), ("a/b/", "c"));
        assert_eq!(split("/"), ("/", ""));
        assert_eq!(split("c"), ("", "c"));
    }
}
