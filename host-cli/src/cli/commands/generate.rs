//! What is generated from the definition of the command line: completions, manual pages, versions.

mod manual;

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use serde::Serialize;

use crate::cli::args::{Cli, CompletionsArgs, GlobalArgs, ManArgs};
use crate::cli::complete;
use crate::cli::report::{print, print_json};
use crate::error::{ErrorKind, Problem};

/// Prints the completions for a shell.
///
/// # Errors
///
/// If they cannot be written.
pub(in crate::cli) fn completions(args: &CompletionsArgs) -> Result<u8, Problem> {
    let mut script = Vec::new();
    complete::write_script(&args.shell.to_string(), &mut script)?;
    print(&String::from_utf8_lossy(&script)).map(|()| 0)
}

/// Prints a manual page, or writes all of them to a folder.
///
/// # Errors
///
/// If there is no such command, or the page cannot be written.
pub(in crate::cli) fn man(args: &ManArgs) -> Result<u8, Problem> {
    let mut command = Cli::command();
    command.build();
    if let Some(folder) = &args.output_dir {
        return write_pages(&command, folder)
            .map(|()| 0)
            .map_err(|error| Problem::of(ErrorKind::Output, &error));
    }
    for name in &args.command {
        let known: Vec<_> = command
            .get_subcommands()
            .filter(|c| !c.is_hide_set())
            .map(|c| c.get_name().to_owned())
            .collect();
        command = command.find_subcommand(name).cloned().ok_or_else(|| {
            let message = format!(
                "no command is called {name:?}; there are: {}",
                known.join(", ")
            );
            Problem::new(ErrorKind::Usage, message)
        })?;
    }
    let mut page = Vec::new();
    manual::render(command, &mut page).map_err(|error| Problem::of(ErrorKind::Output, &error))?;
    print(&String::from_utf8_lossy(&page)).map(|()| 0)
}

/// Writes the page of a command and those of all below it: `sovereign-image-build.1`.
fn write_pages(command: &Command, folder: &Path) -> io::Result<()> {
    let mut page = Vec::new();
    manual::render(command.clone(), &mut page)?;
    fs::write(folder.join(manual::file_name(command)), page)?;
    command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
        .try_for_each(|inner| write_pages(inner, folder))
}

/// Prints the version.
///
/// # Errors
///
/// If it cannot be written.
pub(in crate::cli) fn version(global: GlobalArgs) -> Result<u8, Problem> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        agent_protocol: agent_protocol::frame::PROTOCOL_VERSION,
    };
    let printed = if global.json {
        print_json(&version)
    } else {
        let Version {
            version,
            agent_protocol,
        } = version;
        print(&format!(
            "sovereign {version} (agent protocol {agent_protocol})\n"
        ))
    };
    printed.map(|()| 0)
}

/// The versions of this program.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Version {
    /// The release.
    version: &'static str,
    /// What it speaks with agents.
    agent_protocol: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_page_is_told_with_what_users_may_call() {
        let command = vec!["nosuch".to_owned()];
        let output_dir = None;
        let args = ManArgs {
            output_dir,
            command,
        };
        let told = man(&args).unwrap_err().message;
        assert!(told.contains("run, create"), "{told}");
        assert!(!told.contains("supervise"), "{told}");
    }

    #[test]
    fn every_page_that_a_page_names_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let args = ManArgs {
            output_dir: Some(folder.path().to_owned()),
            command: Vec::new(),
        };
        assert_eq!(man(&args), Ok(0));
        let mut named = 0;
        for entry in fs::read_dir(folder.path()).unwrap() {
            let page = fs::read_to_string(entry.unwrap().path()).unwrap();
            for word in page.split_whitespace().filter(|word| word.ends_with("(1)")) {
                let name = word.trim_end_matches("(1)").replace("\\-", "-");
                let is_there = folder.path().join(format!("{name}.1")).is_file();
                assert!(is_there || !name.starts_with("sovereign"), "{word}");
                named += usize::from(is_there);
            }
        }
        assert!(named > 20, "{named}");
        assert!(!folder.path().join("sovereign-supervise.1").exists());
    }
}
