//! `sovereign prune`: removing what crashes have left behind.

use std::fmt::Write;

use sandbox_image::Store;
use serde::Serialize;

use crate::cli::args::{GlobalArgs, PruneArgs};
use crate::cli::report::{print, print_json};
use crate::error::Problem;
use crate::prune::{Pruned, prune as remove_leftovers};
use crate::registry::Registry;

/// The exit code if something could not be removed.
const NOT_REMOVED: u8 = 1;

/// What was left behind, and is gone now.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Answer<'a> {
    /// Whether it was only looked for.
    dry_run: bool,
    /// What there was.
    #[serde(flatten)]
    pruned: &'a Pruned,
}

/// Removes what was left behind, and tells what it was. Returns 0 if all of it is gone, else 1.
///
/// # Errors
///
/// If the image store cannot be read, or the result cannot be written.
pub(in crate::cli) fn prune(args: &PruneArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let registry = Registry::open_default().ok();
    let pruned = remove_leftovers(&Store::open_default()?, registry.as_ref(), args.dry_run)?;
    if global.json {
        print_json(&Answer {
            dry_run: args.dry_run,
            pruned: &pruned,
        })?;
    } else if !global.quiet {
        print(&told(&pruned, args.dry_run))?;
    }
    Ok(if pruned.is_clean() { 0 } else { NOT_REMOVED })
}

fn told(pruned: &Pruned, dry_run: bool) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for left in &pruned.leftovers {
        let what = left.kind.words();
        let name = &left.name;
        let _ = match &left.problem {
            Some(problem) => writeln!(text, "not removed: {what} {name}: {problem}"),
            None if dry_run => writeln!(text, "would remove {what} {name}"),
            None => writeln!(text, "removed {what} {name}"),
        };
    }
    if pruned.leftovers.is_empty() {
        text.push_str(match pruned.unseen.as_slice() {
            [] => "nothing was left behind\n",
            _ => "nothing was found where it could be looked\n",
        });
    }
    for unseen in &pruned.unseen {
        let _ = writeln!(
            text,
            "not looked at: {}: {}",
            unseen.tier, unseen.reason.cause
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::prune::{Kind, Leftover, Unseen};
    use crate::tier::Tier;
    use crate::tier::facts::Unavailable;

    #[test]
    fn every_leftover_has_a_line() {
        let mut pruned = Pruned::default();
        assert_eq!(told(&pruned, false), "nothing was left behind\n");
        let left = |name: &str, problem: Option<&str>| Leftover {
            kind: Kind::Container,
            name: name.to_owned(),
            tier: Some(Tier::Docker),
            problem: problem.map(str::to_owned),
        };
        pruned.leftovers = vec![left("a", None), left("b", Some("it is stuck"))];
        pruned.unseen.push(Unseen {
            tier: Tier::Podman,
            reason: Unavailable {
                code: ErrorKind::DaemonStopped,
                cause: "nobody listens".to_owned(),
                remedy: None,
            },
        });
        assert_eq!(
            told(&pruned, false),
            "removed container a\nnot removed: container b: it is stuck\n\
             not looked at: podman: nobody listens\n"
        );
        assert!(told(&pruned, true).starts_with("would remove container a\n"));
        pruned.leftovers.clear();
        assert_eq!(
            told(&pruned, false),
            "nothing was found where it could be looked\nnot looked at: podman: nobody listens\n"
        );
    }
}
