//! `sovereign cp` of a large file beside `docker cp`, both as the whole commands that people type.
//!
//! The file is of random bytes: it has no holes that one could pass over and nothing that one could
//! pack. Both copies are in memory if the daemon's folder is.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sovereign_tests::call::Sovereign;
use tempfile::TempDir;

use crate::copies::same;
use crate::inside::{median, milliseconds};
use crate::results::Results;
use crate::tiers::Peer;

/// How often each copy is measured.
const ROUNDS: u32 = 3;

/// What it has to be: no slower than Docker.
const RATIO: f64 = 1.0;

/// Where files go in memory, if there is such a place.
const MEMORY: &str = "/dev/shm";

const NAME: &str = "bench-copies";
const PLACE: &str = "/tmp/copied";

/// Measures `cp` into a sandbox of a tier and out of it; beside `docker cp`, if there is a container.
///
/// # Errors
///
/// If a copy fails, or comes out as something else.
pub(crate) fn measure(
    results: &mut Results,
    tier: &str,
    mib: u32,
    peer: Option<&Peer>,
) -> Result<()> {
    let desk = Desk::open(tier, mib)?;
    let source = desk.folder.path().join("source");
    let copy = desk.folder.path().join("copy");
    let mut random = File::open("/dev/urandom")?.take(u64::from(mib) << 20);
    io::copy(&mut random, &mut File::create(&source)?).context("cannot write the file to copy")?;
    let inside = format!("{NAME}:{PLACE}");
    let mut times = [const { Vec::new() }; 4];
    let [into, out, their_into, their_out] = &mut times;
    for _ in 0..ROUNDS {
        into.push(desk.timed([OsStr::new("cp"), source.as_os_str(), inside.as_ref()])?);
        if let Some(peer) = peer {
            their_into.push(docker_cp(&source, peer.path(PLACE))?);
        }
        out.push(desk.timed([OsStr::new("cp"), inside.as_ref(), copy.as_os_str()])?);
        ensure!(same(&source, &copy)?, "what came out is not what went in");
        fs::remove_file(&copy)?;
        desk.timed(["fs", "rm", NAME, PLACE])?;
        if let Some(peer) = peer {
            their_out.push(docker_cp(peer.path(PLACE), &copy)?);
            fs::remove_file(&copy)?;
            peer.run(["rm", PLACE])?;
        }
    }
    let [into, out, their_into, their_out] = times;
    let ratio = |ours: &[f64], theirs: &[f64]| vec![median(ours) / median(theirs)];
    let ratios = [ratio(&into, &their_into), ratio(&out, &their_out)];
    let name = |what: &str| format!("{what}, {mib} MiB");
    results.add(&name(&format!("{tier} tier: cp in")), "ms", into, None);
    results.add(&name(&format!("{tier} tier: cp out")), "ms", out, None);
    if peer.is_some() {
        results.add(&name("docker cp in"), "ms", their_into, None);
        results.add(&name("docker cp out"), "ms", their_out, None);
        for (way, ratio) in ["in", "out"].into_iter().zip(ratios) {
            let name = format!("cp {way}: ours / docker cp's");
            results.add(&name, "ratio", ratio, Some(RATIO));
        }
    }
    Ok(())
}

fn docker_cp(from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Result<f64> {
    let mut command = Command::new("docker");
    timed(command.args(["cp", "-q"]).arg(from).arg(to))
}

/// Runs a command to its end, however long that takes.
fn timed(command: &mut Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let started = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    let took = started.elapsed();
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(milliseconds(took))
}

/// A registry with one sandbox that stays up. Dropped, it is gone.
struct Desk {
    program: PathBuf,
    folder: TempDir,
}

impl Desk {
    fn open(tier: &str, mib: u32) -> Result<Self> {
        let place = Path::new(MEMORY);
        let folder = match place.is_dir() {
            true => tempfile::tempdir_in(place),
            false => tempfile::tempdir(),
        };
        let desk = Self {
            program: Sovereign::find()?.program().to_path_buf(),
            folder: folder.context("cannot make a folder")?,
        };
        // Half of it is for files.
        let memory = format!("{}M", 512 + 3 * mib);
        let start = ["run", "-q", "-d", "--name", NAME, "--tier", tier];
        let mut arguments = Vec::from(start);
        if tier != "local" {
            arguments.extend(["-m", &memory]);
        }
        arguments.extend(["--", "sleep", "1000"]);
        desk.timed(arguments)?;
        Ok(desk)
    }

    fn timed<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<f64> {
        timed(self.command().args(arguments))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("SOVEREIGN_STATE_DIR", self.folder.path().join("state"));
        command
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let mut remove = self.command();
        remove.args(["rm", "-f", NAME]).stdout(Stdio::null());
        let _ = remove.stderr(Stdio::null()).status();
        // Its process may need a moment to leave the folder.
        std::thread::sleep(Duration::from_millis(100));
    }
}
