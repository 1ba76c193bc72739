//! How fast files go into a guest and out of it, through our VMM and through Firecracker: the same
//! client, kernel, agent and bytes, so that what differs is the VMMs.
//!
//! The bytes are random, so the file has no holes and nothing can be packed. In the lab they come from and
//! go to memory in pages of 2 MiB: else a third of what is counted is the lab's file system making pages
//! of 4 KiB, which is the same through either and hides what differs.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use agent_client::Files;
use anyhow::{Context, Result, ensure};
use sandbox_image::{DEFAULT_IMAGE, Image};
use sovereign::{Engine, Launch, Policy, Sandbox, SandboxSpec, Timeline};

use crate::MeasureArgs;
use crate::firecracker;
use crate::huge_folder::HugeFolder;
use crate::inside::{median, milliseconds};
use crate::results::Results;

/// What it has to be: half of Firecracker's time.
const RATIO: f64 = 0.5;

/// The file's name on both sides.
const NAME: &[u8] = b"copied";

/// A file to copy, and a folder to copy it to.
struct Load {
    folder: Box<dyn AsRef<Path>>,
    mib: u32,
    rounds: u32,
}

/// Times of copies in one direction each.
#[derive(Default)]
struct Times {
    into: Vec<f64>,
    out: Vec<f64>,
}

impl Times {
    /// Of each round, both copies together.
    fn both(&self) -> Vec<f64> {
        self.into
            .iter()
            .zip(&self.out)
            .map(|(into, out)| into + out)
            .collect()
    }
}

/// Measures copies into and out of a guest, and compares with Firecracker, if there is one.
///
/// # Errors
///
/// If nothing can be copied.
pub(crate) fn measure(results: &mut Results, counted: bool, args: &MeasureArgs) -> Result<()> {
    let mib = args.copy_mib;
    let load = Load::new(mib, args.copy_rounds, counted)?;
    let spec = SandboxSpec {
        memory_mib: Some(guest_memory(mib)),
        ..SandboxSpec::default()
    };
    let (mut sandbox, _) = Engine::new().start(
        &Policy::default(),
        Launch::new(&spec),
        &mut Timeline::default(),
    )?;
    let ours = load.times(|| session(&mut sandbox))?;
    drop(sandbox);
    let name = |what: &str| format!("{what}, {mib} MiB");
    results.add(&name("cp into the guest"), "ms", ours.into.clone(), None);
    results.add(&name("cp out of the guest"), "ms", ours.out.clone(), None);
    let Some(program) = &args.firecracker else {
        return Ok(());
    };
    let image = sandbox_image::Store::open_default()?.find(DEFAULT_IMAGE)?;
    let theirs = through_firecracker(&load, program, &image)?;
    let limit = counted.then_some(RATIO);
    let ratio = |ours: &[f64], theirs: &[f64]| vec![median(ours) / median(theirs)];
    let into = ratio(&ours.into, &theirs.into);
    let out = ratio(&ours.out, &theirs.out);
    let both = ratio(&ours.both(), &theirs.both());
    results.add(
        &name("the same through Firecracker, in"),
        "ms",
        theirs.into,
        None,
    );
    results.add(
        &name("the same through Firecracker, out"),
        "ms",
        theirs.out,
        None,
    );
    results.add("cp in: ours / Firecracker's", "ratio", into, limit);
    results.add("cp out: ours / Firecracker's", "ratio", out, limit);
    results.add("cp in and out: ours / Firecracker's", "ratio", both, limit);
    Ok(())
}

/// In MiB. The guest keeps one copy, and a second while the first is replaced; half of its memory is for files.
pub(crate) const fn guest_memory(mib: u32) -> u32 {
    128 + 5 * mib
}

fn session(sandbox: &mut Sandbox) -> Result<Files> {
    Ok(sandbox.files(None)?)
}

fn through_firecracker(load: &Load, program: &Path, image: &Image) -> Result<Times> {
    let guest = firecracker::Guest::boot(program, image, guest_memory(load.mib))?;
    guest.within(load.patience(), || {
        load.times(|| Ok(guest.session()?.files(None)))
    })
}

impl Load {
    fn new(mib: u32, rounds: u32, counted: bool) -> Result<Self> {
        let folder: Box<dyn AsRef<Path>> = if counted {
            Box::new(HugeFolder::mount()?)
        } else {
            Box::new(tempfile::tempdir().context("cannot make a folder")?)
        };
        let mut random = File::open("/dev/urandom")?.take(u64::from(mib) << 20);
        let mut file = File::create((*folder).as_ref().join("source"))?;
        io::copy(&mut random, &mut file).context("cannot write the file to copy")?;
        Ok(Self {
            folder,
            mib,
            rounds,
        })
    }

    /// How long all rounds may take: in the lab some thirty times what they do, by its clock.
    fn patience(&self) -> Duration {
        Duration::from_secs(10) + Duration::from_millis(125) * self.mib * (self.rounds + 1)
    }

    fn times(&self, mut files: impl FnMut() -> Result<Files>) -> Result<Times> {
        let path = (*self.folder).as_ref();
        let source = path.join("source");
        let copy = path.join("copied");
        let folder = File::open(path)?;
        let mut times = Times::default();
        // The first is for nothing: it also makes the guest's memory.
        for round in 0..=self.rounds {
            let started = Instant::now();
            files()?.copy_in(&source, b"/tmp", NAME, false)?;
            let into = started.elapsed();
            let started = Instant::now();
            files()?.copy_out(b"/tmp/copied", folder.as_fd(), NAME, false)?;
            let out = started.elapsed();
            // In the lab, this takes minutes.
            eprintln!("copied: in {into:?}, out {out:?}");
            if round == 0 {
                ensure!(same(&source, &copy)?, "what came out is not what went in");
            } else {
                times.into.push(milliseconds(into));
                times.out.push(milliseconds(out));
            }
            fs::remove_file(&copy)?;
        }
        Ok(times)
    }
}

/// Whether two files have the same bytes.
pub(crate) fn same(one: &Path, other: &Path) -> Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let mut buffers = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let count = one.read(&mut buffers.0)?;
        if count == 0 {
            return Ok(true);
        }
        let (here, there) = (buffers.0.get(..count), buffers.1.get_mut(..count));
        let (Some(here), Some(there)) = (here, there) else {
            return Ok(false);
        };
        other.read_exact(there)?;
        if here != there {
            return Ok(false);
        }
    }
}
