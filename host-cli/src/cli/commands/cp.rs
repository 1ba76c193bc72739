//! `sovereign cp`: files into sandboxes, out of them and between them.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agent_protocol::files::Transfer;
use serde_json::json;

use crate::cli::args::{CpArgs, GlobalArgs};
use crate::cli::report::{print_json, say};
use crate::detached::Detached;
use crate::error::{ErrorKind, Problem};
use crate::files::{self, FileSource};
use crate::registry::Registry;

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Stream,
    Here(&'a Path),
    Sandbox { name: String, path: &'a [u8] },
}

/// Copies files.
///
/// # Errors
///
/// If there is no such file, no such place, or it cannot be read or written.
pub(in crate::cli) fn cp(args: &CpArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let (source, target) = (side(&args.source), side(&args.target));
    let follow = args.follow_link;
    let find = |name: &str| Detached::find(&Registry::open_default()?, name).map_err(Problem::from);
    let opened = |sandbox: Detached| {
        let (user, archive) = (args.user.clone(), args.archive);
        move || {
            let files = sandbox.files(user.clone());
            let files = files.map_err(|error| error.problem())?;
            Ok(match archive {
                true => files.keeping_owners(),
                false => files,
            })
        }
    };
    let copied = match (source, target) {
        (Side::Here(source), Side::Sandbox { name, path }) => {
            files::copy_in(source, &opened(find(&name)?), home(path), follow)?
        }
        (Side::Sandbox { name, path }, Side::Here(target)) => {
            files::copy_out(&opened(find(&name)?), home(path), target, follow)?
        }
        (
            Side::Sandbox { name, path },
            Side::Sandbox {
                name: to,
                path: target,
            },
        ) => {
            let (from, to) = (opened(find(&name)?), opened(find(&to)?));
            files::copy_between(&from, home(path), &to, home(target), follow)?
        }
        (Side::Stream, Side::Sandbox { name, path }) => {
            files::unpack(std::io::stdin().as_fd(), &opened(find(&name)?), home(path))?
        }
        (Side::Sandbox { name, path }, Side::Stream) => {
            let sandbox = opened(find(&name)?);
            return stream_out(&sandbox, home(path), follow, global);
        }
        (Side::Here(_) | Side::Stream, Side::Here(_) | Side::Stream) => {
            let problem = "one of the two must be in a sandbox: SANDBOX:PATH";
            return Err(Problem::new(ErrorKind::Usage, problem.to_owned()));
        }
    };
    tell_skipped(copied, global);
    if global.json {
        print_json(
            &json!({ "entries": copied.entries, "bytes": copied.bytes, "skipped": copied.skipped }),
        )?;
    }
    Ok(0)
}

fn stream_out(
    sandbox: &dyn FileSource,
    path: &[u8],
    follow: bool,
    global: GlobalArgs,
) -> Result<u8, Problem> {
    let packed = files::pack(sandbox, path, follow, &mut std::io::stdout())?;
    tell_skipped(packed, global);
    Ok(0)
}

fn tell_skipped(transfer: Transfer, global: GlobalArgs) {
    if transfer.skipped > 0 && !global.quiet {
        let count = transfer.skipped;
        say(&format!(
            "sovereign: {count} sockets, pipes and devices were left out\n"
        ));
    }
}

/// Without a path: the home of the user.
fn home(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

/// A colon parts a sandbox's name from a path, unless a slash comes before it.
fn side(text: &OsString) -> Side<'_> {
    let bytes = text.as_bytes();
    if bytes == b"-" {
        return Side::Stream;
    }
    let colon = bytes.iter().position(|byte| matches!(byte, b':' | b'/'));
    match colon.and_then(|at| Some((bytes.get(..at)?, bytes.get(at..)?.strip_prefix(b":")?))) {
        Some((name, path)) if !name.is_empty() => Side::Sandbox {
            name: String::from_utf8_lossy(name).into_owned(),
            path,
        },
        _ => Side::Here(Path::new(OsStr::from_bytes(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colon_parts_sandbox_and_path() {
        let sandbox = |text: &str| match side(&OsString::from(text)) {
            Side::Sandbox { name, path } => Some((name, path.to_vec())),
            Side::Here(_) | Side::Stream => None,
        };
        assert_eq!(
            sandbox("work:/a:b"),
            Some(("work".to_owned(), b"/a:b".to_vec()))
        );
        assert_eq!(sandbox("work:"), Some(("work".to_owned(), Vec::new())));
        assert_eq!(sandbox("./a:b"), None);
        assert_eq!(sandbox("a/b:c"), None);
        assert_eq!(sandbox(":x"), None);
        assert_eq!(sandbox("file"), None);
        assert_eq!(side(&OsString::from("-")), Side::Stream);
    }
}
