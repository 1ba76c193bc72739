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
use crate::inside::milliseconds;
use crate::results::Results;
use crate::tiers::Peer;

/// How often each copy is measured.
const ROUNDS: usize = 7;

/// What it has to be, in the middle of the rounds: no slower than Docker in the same round.
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
    let mut random = File::open("/dev/urandom")?.take(u64::from(mib) << 20);
    io::copy(&mut random, &mut File::create(&source)?).context("cannot write the file to copy")?;
    let mut times = Times::default();
    // The first is for nothing: whoever is first finds memory that this machine has never touched, and a
    // virtual one has to be given it.
    there_and_back(&desk, &source)?;
    for round in 0..ROUNDS {
        // Neither always comes first.
        if let Some(peer) = peer.filter(|_| round % 2 == 1) {
            times
                .theirs
                .push(docker_there_and_back(&desk, peer, &source)?);
        }
        times.ours.push(there_and_back(&desk, &source)?);
        if let Some(peer) = peer.filter(|_| round % 2 == 0) {
            times
                .theirs
                .push(docker_there_and_back(&desk, peer, &source)?);
        }
    }
    times.add_to(results, tier, mib);
    Ok(())
}

/// The milliseconds of a copy in and of one out.
type Pair = [f64; 2];

/// Round by round.
#[derive(Default)]
struct Times {
    ours: Vec<Pair>,
    theirs: Vec<Pair>,
}

impl Times {
    fn add_to(&self, results: &mut Results, tier: &str, mib: u32) {
        for (way, index) in [("in", 0), ("out", 1)] {
            let of = |rounds: &[Pair]| -> Vec<f64> {
                let times = rounds.iter().filter_map(|round| round.get(index).copied());
                times.collect()
            };
            let (ours, theirs) = (of(&self.ours), of(&self.theirs));
            // What else the machine does falls on both of a round.
            let ratios: Vec<f64> = ours
                .iter()
                .zip(&theirs)
                .map(|(one, two)| one / two)
                .collect();
            let name = format!("{tier} tier: cp {way}, {mib} MiB");
            results.add(&name, "ms", ours, None);
            if !theirs.is_empty() {
                results.add(&format!("docker cp {way}, {mib} MiB"), "ms", theirs, None);
                let name = format!("cp {way}: ours / docker cp's, round by round");
                results.add(&name, "ratio", ratios, Some(RATIO));
            }
        }
    }
}

fn there_and_back(desk: &Desk, source: &Path) -> Result<Pair> {
    let copy = desk.folder.path().join("copy");
    let inside = format!("{NAME}:{PLACE}");
    let into = desk.timed([OsStr::new("cp"), source.as_os_str(), inside.as_ref()])?;
    let out = desk.timed([OsStr::new("cp"), inside.as_ref(), copy.as_os_str()])?;
    ensure!(same(source, &copy)?, "what came out is not what went in");
    fs::remove_file(&copy)?;
    desk.timed(["fs", "rm", NAME, PLACE])?;
    Ok([into, out])
}

fn docker_there_and_back(desk: &Desk, peer: &Peer, source: &Path) -> Result<Pair> {
    let copy = desk.folder.path().join("copy");
    let into = docker_cp(source, peer.path(PLACE))?;
    let out = docker_cp(peer.path(PLACE), &copy)?;
    fs::remove_file(&copy)?;
    peer.run(["rm", PLACE])?;
    Ok([into, out])
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
