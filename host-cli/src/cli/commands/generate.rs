//! What is generated from the definition of the command line: completions, manual pages, versions.

use clap::CommandFactory;
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

/// Prints a manual page.
///
/// # Errors
///
/// If there is no such command, or the page cannot be written.
pub(in crate::cli) fn man(args: &ManArgs) -> Result<u8, Problem> {
    let mut command = Cli::command();
    command.build();
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
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|error| Problem::of(ErrorKind::Output, &error))?;
    print(&String::from_utf8_lossy(&page)).map(|()| 0)
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
        let told = man(&ManArgs { command }).unwrap_err().message;
        assert!(told.contains("run, create"), "{told}");
        assert!(!told.contains("supervise"), "{told}");
    }
}
