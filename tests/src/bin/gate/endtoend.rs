//! End-to-end tests: the release binaries and the image are made, then `sovereign-e2e` runs: here
//! where this machine can boot a guest, otherwise here without guests and in the lab with them.

use std::env;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use sovereign_lab::{Job, LabDied, Parts};
use sovereign_tests::call::Sovereign;
use sovereign_tests::images::{STOCK, Store};

pub(crate) use self::conformance::record;
use self::events::Events;
use crate::cargo::{cargo, merged, print_line, show};
use crate::python;
use crate::report::{Report, Verdict};
use crate::screen;

mod conformance;
mod emulator;
mod events;
mod shares;

const SUITE: &str = "end-to-end";

/// What makes the three binaries that are shipped, and where they are used in the lab.
const PACKAGES: &[&str] = &[
    "-p",
    "sovereign",
    "-p",
    "vmm",
    "-p",
    "guest-agent",
    "--bins",
];
const BINARIES: &[&str] = &["sovereign", "sovereign-vmm", "sovereign-agent"];
const TARGET: &str = "x86_64-unknown-linux-musl";
const LAB_BIN: &str = "/opt/sovereign/bin";
const LAB_STORE: &str = "/root/images";

/// The archive with pytest, and the variable that tells the tests of it.
const PYTEST: &str = "pytest.tar";
const PYTEST_VARIABLE: &str = "SOVEREIGN_E2E_PYTEST";

/// The folder with the programs that draw screens, and its variable.
const SCREEN: &str = "screen";
const SCREEN_VARIABLE: &str = "SOVEREIGN_E2E_SCREEN";

/// What changes counts and sizes of tests, also in the lab.
const SIZES: &[&str] = &[
    "SOVEREIGN_E2E_SANDBOXES",
    "SOVEREIGN_E2E_SOAK",
    "SOVEREIGN_E2E_STREAM_MIB",
];

/// How many labs run side by side at the most: each has gigabytes of memory.
const MAX_LABS: usize = 2;

/// How many labs may be used up by what one runs: a test that kills them all is told as failed.
const LABS_FOR_A_SHARE: u32 = 3;

/// How many failures of a share may be its first lab's own: its emulation has been seen to lose the interrupts
/// of timers, which leaves no trace in a guest. So few are run once more, in another lab; more are no
/// accident.
const ACCIDENTS: usize = 2;

/// How long all tests together may take in the lab, and how long any one of them.
const LAB_DEADLINE: Duration = Duration::from_secs(45 * 60);
const LAB_SILENCE: Duration = Duration::from_secs(16 * 60);

/// Runs the tests whose names are wanted.
pub(crate) fn run(wanted: &dyn Fn(&str) -> bool, report: &mut Report) {
    if let Err(error) = try_run(wanted, report) {
        report.add(SUITE, "preparation", Verdict::Failed(format!("{error:#}")));
    }
}

/// Whether a test is a case of the conformance suite.
pub(crate) fn is_of_conformance(name: &str) -> bool {
    !["host::", "guest::", "with_"]
        .iter()
        .any(|start| name.starts_with(start))
}

fn try_run(wanted: &dyn Fn(&str) -> bool, report: &mut Report) -> Result<()> {
    build_release()?;
    let mut programs = Programs::find()?;
    programs.pytest = python::pack_for_sandboxes(&programs.bin.with_file_name(PYTEST))?;
    programs.screen = screen::pack(&programs.bin.with_file_name(SCREEN))?;
    build_image(&programs)?;
    let store = prepare_images(&programs)?;
    let native = native_guests(&programs)?;
    let all = programs.list(&programs.tests, &[])?;
    let (engines, mut names): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|name| name.starts_with("with_"));
    conformance::run(&programs, &store, wanted, &engines, report)?;
    names.extend(programs.list(&programs.conformance, &["--tier", "microvm"])?);
    names.retain(|name| wanted(name));
    let (guest, host): (Vec<_>, Vec<_>) = names
        .iter()
        .cloned()
        .partition(|name| !name.starts_with("host::"));
    if native {
        println!("\n== end-to-end tests, on this machine");
        run_here(&programs, &names, &store, report);
        return Ok(());
    }
    println!("\n== end-to-end tests that need no guest, on this machine");
    run_here(&programs, &host, &store, report);
    println!("\n== end-to-end tests that boot guests, in the lab: no guest can boot here");
    run_in_lab(&programs, &guest, &store, report)
}

fn build_release() -> Result<()> {
    println!("\n== release build: {}", BINARIES.join(", "));
    let mut command = cargo(["build", "--release", "--target", TARGET]);
    let transcript = show(command.args(PACKAGES), &mut print_line)?;
    ensure!(
        transcript.success,
        "the release build failed:\n{}",
        transcript.tail(30)
    );
    Ok(())
}

/// The programs under test, and the tests.
struct Programs {
    bin: PathBuf,
    tests: PathBuf,
    /// An archive with pytest and the tests of T-APTS, where there is pytest.
    pytest: Option<PathBuf>,
    /// A folder with tmux, vim and less, where they are installed.
    screen: Option<PathBuf>,
    conformance: PathBuf,
}

impl Programs {
    /// Finds them from where we are: `target/TRIPLE/tool/`, with `target/TRIPLE/release/` beside.
    fn find() -> Result<Self> {
        let ours = env::current_exe().context("cannot find ourselves")?;
        let tool = ours.parent().context("we are nowhere")?;
        let triple = tool.parent().context("we are nowhere")?;
        let programs = Self {
            bin: triple.join("release"),
            tests: tool.join("sovereign-e2e"),
            pytest: None,
            screen: None,
            conformance: tool.join("sovereign-conformance"),
        };
        for path in BINARIES
            .iter()
            .map(|name| programs.bin.join(name))
            .chain([programs.tests.clone(), programs.conformance.clone()])
        {
            ensure!(
                path.is_file(),
                "{} is missing: use `make test`",
                path.display()
            );
        }
        Ok(programs)
    }

    fn sovereign(&self) -> PathBuf {
        self.bin.join("sovereign")
    }

    fn agent(&self) -> PathBuf {
        self.bin.join("sovereign-agent")
    }

    /// The names of the tests that one of the two has.
    fn list(&self, tests: &Path, arguments: &[&str]) -> Result<Vec<String>> {
        let mut command = Command::new(tests);
        let output = command
            .args(arguments)
            .arg("--list")
            .env("SOVEREIGN_E2E_PROGRAM", self.sovereign())
            .output()
            .context("cannot start the tests")?;
        ensure!(output.status.success(), "the tests cannot be listed");
        let list = String::from_utf8_lossy(&output.stdout);
        Ok(list
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .map(str::to_owned)
            .collect())
    }

    /// Sets what tests find their programs and images by.
    fn arm<'a>(&self, command: &'a mut Command, store: &Path) -> &'a mut Command {
        command
            .env("SOVEREIGN_E2E_PROGRAM", self.sovereign())
            .env("SOVEREIGN_PROGRAM", self.sovereign())
            .env("SOVEREIGN_VMM", self.bin.join("sovereign-vmm"))
            .env("SOVEREIGN_AGENT", self.agent())
            .env("SOVEREIGN_DATA_DIR", store)
            .envs(
                self.pytest
                    .as_ref()
                    .map(|archive| (PYTEST_VARIABLE, archive)),
            )
            .envs(self.screen.as_ref().map(|folder| (SCREEN_VARIABLE, folder)))
    }
}

fn build_image(programs: &Programs) -> Result<()> {
    println!("\n== sandbox image");
    let mut command = merged(programs.sovereign().as_os_str());
    command.args(["image", "build", "--progress", "plain"]);
    let transcript = show(&mut command, &mut print_line)?;
    ensure!(
        transcript.success,
        "the image cannot be built:\n{}",
        transcript.tail(30)
    );
    Ok(())
}

/// Makes the tests' own image store, and returns where it is: the default image, one with Debian's
/// stock kernel, and one whose guest has no init.
fn prepare_images(programs: &Programs) -> Result<PathBuf> {
    let target = sovereign_lab::cache_dir()?.join("test-images");
    let store = Store::of_this_user()?.prepare_for_tests(&target)?;
    let parts = Parts::ensure()?;
    let mut command = merged(programs.sovereign().as_os_str());
    command
        .args([
            "image",
            "build",
            "--progress",
            "plain",
            "--name",
            STOCK,
            "--kernel",
        ])
        .arg(parts.kernel())
        .arg("--rootfs")
        .arg(store.default_parts()?.rootfs)
        .env("SOVEREIGN_DATA_DIR", &target);
    for module in parts.guest_modules() {
        command.arg("--module").arg(module);
    }
    let transcript = show(&mut command, &mut print_line)?;
    ensure!(
        transcript.success,
        "the stock kernel's image cannot be made"
    );
    Ok(target)
}

/// Returns whether this machine can boot a guest: what the tool itself says.
fn native_guests(programs: &Programs) -> Result<bool> {
    let sovereign = Sovereign::at(&programs.sovereign())?;
    Ok(sovereign.guest_obstacle()?.is_none())
}

fn run_here(programs: &Programs, names: &[String], store: &Path, report: &mut Report) {
    let mut events = Events::new(names);
    let mut end = "the tests ended early".to_owned();
    let conformance = merged(programs.conformance.as_os_str());
    for (mut command, arguments) in [
        (merged(programs.tests.as_os_str()), &[][..]),
        (conformance, &["--tier", "microvm"]),
    ] {
        programs
            .arm(&mut command, store)
            .args(arguments)
            .args(["--format", "json"])
            .env("SOVEREIGN_E2E_ONLY", names.join(","));
        if let Err(error) = show(&mut command, &mut |line| events.read(line)) {
            end = format!("{error:#}");
        }
    }
    events.finish(&end, suite_of, report);
}

/// The suite that a test belongs to, by its name.
fn suite_of(name: &str) -> String {
    if is_of_conformance(name) {
        conformance::suite("microvm")
    } else {
        SUITE.to_owned()
    }
}

/// Runs tests in labs side by side, one for each of two cores: a lab uses one.
fn run_in_lab(
    programs: &Programs,
    names: &[String],
    store: &Path,
    report: &mut Report,
) -> Result<()> {
    let parts = Parts::ensure()?;
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let shares = shares::split(names, cores.min(MAX_LABS));
    let ended: Vec<_> = thread::scope(|scope| {
        let labs: Vec<_> = shares
            .iter()
            .map(|share| {
                let parts = &parts;
                scope.spawn(move || run_share(programs, share, store, parts))
            })
            .collect();
        labs.into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect()
    });
    for lab in ended {
        let (events, end) = lab.map_err(|_| anyhow!("a lab's thread panicked"))?;
        events.finish(&end, suite_of, report);
    }
    Ok(())
}

/// Runs a share of the tests in a lab, and what is left of them in another if the first one dies
/// or spoils a test.
fn run_share(
    programs: &Programs,
    share: &[String],
    store: &Path,
    parts: &Parts,
) -> (Events, String) {
    let mut events = Events::new(share);
    let mut labs_left = LABS_FOR_A_SHARE;
    loop {
        labs_left -= 1;
        let job = lab_job(programs, &events.unfinished(), store);
        let why = match sovereign_lab::run(parts, &job, &mut |line| events.read(line)) {
            Ok(_) => {
                let garbled = labs_left > 0 && events.take_back(emulator::shows_impossible_flags);
                let is_first = labs_left + 1 == LABS_FOR_A_SHARE;
                let lost = is_first && events.failures() <= ACCIDENTS && events.take_back(|_| true);
                match (garbled, lost) {
                    (false, false) => return (events, "the tests ended early".to_owned()),
                    (true, false) => "the emulator garbled a guest's flags".to_owned(),
                    (_, true) => "the emulator may have lost a guest's interrupt".to_owned(),
                }
            }
            Err(error) if labs_left > 0 && error.is::<LabDied>() => error.to_string(),
            Err(error) => return (events, format!("{error:#}")),
        };
        println!("   note: {why}\n   note: what is left of its tests runs in another lab");
        events.restart();
    }
}

fn lab_job(programs: &Programs, names: &[String], store: &Path) -> Job {
    let tests = format!("{LAB_BIN}/sovereign-e2e");
    let conformance = format!("{LAB_BIN}/sovereign-conformance");
    let script =
        format!("{tests} --format json; {conformance} --tier microvm --require --format json");
    let mut job = Job::new(["sh", "-c", &script])
        .with_file(&programs.tests, &tests)
        .with_file(&programs.conformance, &conformance)
        .with_file(store, LAB_STORE);
    for name in BINARIES {
        job = job.with_file(programs.bin.join(name), format!("{LAB_BIN}/{name}"));
    }
    job.env = vec![
        ("SOVEREIGN_DATA_DIR".to_owned(), LAB_STORE.into()),
        ("SOVEREIGN_E2E_ONLY".to_owned(), names.join(",").into()),
        ("SOVEREIGN_E2E_QUIET_HOST".to_owned(), "1".into()),
        ("SOVEREIGN_REQUIRE_KVM".to_owned(), "1".into()),
    ];
    let brought = [
        (&programs.pytest, PYTEST, PYTEST_VARIABLE),
        (&programs.screen, SCREEN, SCREEN_VARIABLE),
    ];
    for (from, name, variable) in brought {
        if let Some(from) = from {
            let place = format!("{LAB_BIN}/{name}");
            job = job.with_file(from, &place);
            job.env.push((variable.to_owned(), place.into()));
        }
    }
    for name in SIZES {
        job.env
            .extend(env::var_os(name).map(|value| ((*name).to_owned(), value)));
    }
    job.deadline = LAB_DEADLINE;
    job.silence = LAB_SILENCE;
    job
}
