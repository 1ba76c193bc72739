//! Programs that die in the middle of something: this one, started again to play a part.

use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use sovereign::Detached;
use sovereign::registry::Registry;
use sovereign::supervisor::OwnCommand;

use crate::desk::files;
use crate::forged::header;

/// The first argument of a program that plays a part.
pub(crate) const PLAY: &str = "play";

/// How much is sent before the rest does not come.
pub(crate) const SENT: usize = 300_000;

/// A part.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    /// Starts a sandbox, and lets go of it.
    Creator,
    /// Starts a sandbox, and keeps it.
    Owner,
    /// Writes a file, and gets stuck.
    Writer,
    /// Unpacks an archive, and gets stuck in its second file.
    Unpacker,
}

const ROLES: [(&str, Role); 4] = [
    ("creator", Role::Creator),
    ("owner", Role::Owner),
    ("writer", Role::Writer),
    ("unpacker", Role::Unpacker),
];

/// A program that plays a part, and has come to where it gets stuck. Killed when dropped.
pub(crate) struct Player(Child);

impl Player {
    /// Starts it, and waits until it has come that far.
    pub(crate) fn start(role: Role, sandbox: &Detached, path: &[u8]) -> Result<Self> {
        let name = ROLES
            .into_iter()
            .find(|(_, known)| std::mem::discriminant(known) == std::mem::discriminant(&role))
            .map(|(name, _)| name)
            .context("a part without a name")?;
        let child = Command::new(env::current_exe()?)
            .args([PLAY, name])
            .arg(sandbox.entry().registry().root())
            .arg(sandbox.entry().id().as_str())
            .arg(std::ffi::OsStr::from_bytes(path))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut player = Self(child);
        let stdout = player.0.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "here\n", "it did not come so far: {line:?}");
        Ok(player)
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(mut self) -> Result<()> {
        let status = self.0.wait()?;
        ensure!(status.success(), "{status}");
        Ok(())
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Plays a part, given as NAME ROOT ID PATH.
pub(crate) fn play(mut arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let mut next = || arguments.next().context("too few arguments");
    let (name, root, id, path) = (next()?, next()?, next()?, next()?);
    let id = id.to_str().context("no id")?;
    let sandbox = Detached::find(&Registry::open(root), id)?;
    let role = ROLES.into_iter().find(|(known, _)| name == *known);
    match role.context("no such part")?.1 {
        Role::Creator => {
            sandbox.start(OwnCommand::Held, None)?.let_go();
            here()
        }
        Role::Owner => {
            let _owned = sandbox.start(OwnCommand::Held, None)?;
            here()?;
            stay()
        }
        Role::Writer => {
            let data = vec![b'n'; SENT];
            let mut input = data.as_slice().chain(Stuck);
            files(&sandbox)?.write(path.as_bytes(), None, &mut input)?;
            bail!("the write came to an end")
        }
        Role::Unpacker => {
            let mut archive = header(b'0', b"first", b"", 0);
            archive.extend(header(b'0', b"second", b"", 4 * SENT));
            archive.resize(SENT, b'n');
            let mut input = archive.as_slice().chain(Stuck);
            files(&sandbox)?.unpack(path.as_bytes(), None, &mut input)?;
            bail!("the archive came to an end")
        }
    }
}

/// Says that everything before has been sent, and never has anything.
struct Stuck;

impl Read for Stuck {
    fn read(&mut self, _space: &mut [u8]) -> io::Result<usize> {
        let told = here().and_then(|()| stay());
        told.map(|()| 0).map_err(io::Error::other)
    }
}

fn here() -> Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(b"here\n")?;
    Ok(stdout.flush()?)
}

/// Stays for as long as whoever started this does.
fn stay() -> Result<()> {
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
