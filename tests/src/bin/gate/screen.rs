//! The programs that draw whole screens, with all that they need, for hosts and sandboxes that lack
//! them: a folder with a command for each, which runs wherever Linux does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What is packed. Debian calls the small vim by this name.
const PROGRAMS: &[&str] = &["tmux", "vim.tiny", "less"];

/// The terminals that they may be told to draw for.
const TERMINALS: &[&str] = &[
    "screen",
    "screen-256color",
    "tmux",
    "tmux-256color",
    "xterm",
];

/// Where Debian keeps descriptions of terminals.
const TERMINFO: &[&str] = &["/usr/share/terminfo", "/lib/terminfo", "/etc/terminfo"];

/// The one locale that they need: tmux does not start without UTF-8.
const LOCALE: &str = "/usr/lib/locale/C.utf8/LC_CTYPE";

/// Starts a program with its own loader, libraries, terminals and locale.
const COMMAND: &str = r#"#!/bin/sh
here=${0%/*}
export TERMINFO="$here/terminfo" LOCPATH="$here/locale"
exec "$here/lib/ld.so" --library-path "$here/lib" "$here/bin/${0##*/}" "$@"
"#;

/// Packs them into `target`; `None` where one of them is not installed.
pub(crate) fn pack(target: &Path) -> Result<Option<PathBuf>> {
    let installed: Option<Vec<PathBuf>> = PROGRAMS.iter().map(|name| find(name)).collect();
    let locale = Path::new(LOCALE);
    let Some(installed) = installed.filter(|_| locale.is_file()) else {
        return Ok(None);
    };
    if target.exists() {
        fs::remove_dir_all(target).context("cannot remove the packed programs")?;
    }
    for folder in ["bin", "lib", "terminfo", "locale/C.utf8"] {
        fs::create_dir_all(target.join(folder)).context("cannot make a folder")?;
    }
    copy(locale, &target.join("locale/C.utf8/LC_CTYPE"))?;
    for (name, program) in PROGRAMS.iter().zip(&installed) {
        copy(program, &target.join("bin").join(name))?;
        let command = target.join(name);
        fs::write(&command, COMMAND).context("cannot write a command")?;
        fs::set_permissions(&command, fs::Permissions::from_mode(0o755))?;
        for library in libraries(program)? {
            let name = library.file_name().context("a library without a name")?;
            let is_loader = name.to_string_lossy().starts_with("ld-linux");
            let name = if is_loader { "ld.so".as_ref() } else { name };
            copy(&library, &target.join("lib").join(name))?;
        }
    }
    for terminal in TERMINALS {
        let inner = Path::new(terminal.get(..1).unwrap_or_default()).join(terminal);
        let found = TERMINFO.iter().map(|dir| Path::new(dir).join(&inner));
        if let Some(description) = found.into_iter().find(|path| path.is_file()) {
            let place = target.join("terminfo").join(&inner);
            fs::create_dir_all(place.parent().context("a place without a folder")?)?;
            copy(&description, &place)?;
        }
    }
    Ok(Some(target.to_owned()))
}

fn find(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
}

/// What a program is linked with, its loader included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot start ldd")?;
    ensure!(
        output.status.success(),
        "ldd cannot tell what {} is linked with",
        program.display()
    );
    Ok(linked(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn linked(listing: &str) -> Vec<PathBuf> {
    let words = listing
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_read() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(linked(listing), expected.map(PathBuf::from));
    }
}
