//! Where to measure: here if this machine can boot a guest, and always in the lab.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sovereign_lab::{Job, Mode, Parts};
use sovereign_tests::call::Sovereign;
use sovereign_tests::images::Store;

use crate::inside::COUNTED;
use crate::results::{Figure, Results};
use crate::{MeasureArgs, OutsideArgs, copies, tiers};

/// Where things are in the lab.
const BIN: &str = "/opt/sovereign/bin";
const STORE: &str = "/root/images";
const PROGRAM: &str = "SOVEREIGN_E2E_PROGRAM";
const BINARIES: &[&str] = &["sovereign", "sovereign-vmm", "sovereign-agent"];

/// Counting instructions is slow. Large copies have more time.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// For how long a measurement says nothing at the most, but for large copies.
const SILENCE: Duration = Duration::from_secs(3 * 60);

/// In how many labs it is tried. QEMU keeps the number of an interrupt that VMRUN has injected as one of
/// an exception which is still to be delivered, until the guest's next exit: if its clock has counted to the
/// next timer by then, the guest gets the interrupt twice, the second time with interrupts disabled
/// (`helper_vmrun`, up to 10.0 at least), and may wait for a lock of its own for ever. Runs with many copies
/// see it, those with QEMU 10.0.13 more often than those with 7.2, and copies of 1 GiB each time. A QEMU that is built
/// with `cs->exception_index = -1;` behind the call of `do_interrupt_x86_hardirq` there has not been seen to.
const LABS: u32 = 3;

pub(crate) fn run(args: &OutsideArgs) -> Result<ExitCode> {
    let programs = release_folder(&env::current_exe().context("cannot find ourselves")?)?;
    let mut all = Vec::new();
    let sovereign = Sovereign::at(&programs.join("sovereign"))?;
    match sovereign.guest_obstacle()? {
        _ if args.lab_only => {}
        None => {
            let list = |json: &Path| {
                here_arguments(&args.measure, args.measure.firecracker.as_deref(), json)
            };
            all.push(here(&programs, list)?);
        }
        Some(why) => println!("No guest can boot on this machine ({why}), so only in the lab."),
    }
    if !args.lab_only {
        all.push(here(&programs, |json| {
            tiers::arguments(&args.measure, json)
        })?);
    }
    all.push(in_lab(&programs, &args.measure)?);
    if let Some(path) = &args.measure.json {
        let document = serde_json::to_string_pretty(&json!({ "results": all }))?;
        fs::write(path, document + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let missed = all
        .iter()
        .flat_map(|results| &results.figures)
        .any(Figure::misses);
    Ok(if args.gate && missed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Finds the release binaries: `target/TRIPLE/release/`, from `target/TRIPLE/tool/` where we are.
fn release_folder(ours: &Path) -> Result<PathBuf> {
    let triple = ours
        .parent()
        .and_then(Path::parent)
        .context("we are nowhere")?;
    let folder = triple.join("release");
    for name in BINARIES {
        ensure!(
            folder.join(name).is_file(),
            "{name} is missing in {}: make build",
            folder.display()
        );
    }
    Ok(folder)
}

/// Where a measurement is asked for by its name, the release binaries are measured too: starts this
/// program once more with them, unless others are named or, as in the lab, beside it.
///
/// # Errors
///
/// If there are none.
pub(crate) fn with_programs() -> Result<()> {
    let ours = env::current_exe().context("cannot find ourselves")?;
    if env::var_os(PROGRAM).is_some() || ours.with_file_name("sovereign").is_file() {
        return Ok(());
    }
    let programs = release_folder(&ours)?;
    let mut again = Command::new(&ours);
    again.args(env::args_os().skip(1));
    // It returns only if it fails.
    Err(naming(&mut again, &programs).exec()).context("cannot start ourselves again")
}

/// Tells a process of this program which binaries to measure.
fn naming<'a>(command: &'a mut Command, programs: &Path) -> &'a mut Command {
    command
        .env(PROGRAM, programs.join("sovereign"))
        .env("SOVEREIGN_VMM", programs.join("sovereign-vmm"))
        .env("SOVEREIGN_AGENT", programs.join("sovereign-agent"))
}

/// Measures on this machine, in a process of its own that finds the programs beside it.
fn here(programs: &Path, arguments: impl FnOnce(&Path) -> Vec<String>) -> Result<Results> {
    let dir = tempfile::tempdir().context("cannot make a folder")?;
    let json = dir.path().join("results.json");
    let mut command = Command::new(env::current_exe()?);
    command.args(arguments(&json));
    naming(&mut command, programs).env_remove(COUNTED);
    let status = command.status().context("cannot start ourselves")?;
    ensure!(status.success(), "measuring here failed: {status}");
    read(&json)
}

fn in_lab(programs: &Path, args: &MeasureArgs) -> Result<Results> {
    let store = Store::of_this_user()?;
    ensure!(store.has_default(), "there is no image: make image");
    let dir = tempfile::tempdir().context("cannot make a folder")?;
    let images = dir.path().join("images");
    store.copy_default_to(&images)?;
    let bench = format!("{BIN}/sovereign-bench");
    let peer = args
        .firecracker
        .as_ref()
        .map(|_| Path::new("/opt/firecracker"));
    let mut argv = vec![bench.clone()];
    argv.extend(here_arguments(args, peer, Path::new("/out/results.json")));
    let mut job = Job::new(argv)
        .with_file(env::current_exe()?, bench)
        .with_file(images, STORE);
    for name in BINARIES {
        job = job.with_file(programs.join(name), format!("{BIN}/{name}"));
    }
    if let (Some(program), Some(inside)) = (&args.firecracker, peer) {
        job = job.with_file(program, inside.display().to_string());
    }
    job.env = vec![
        ("SOVEREIGN_DATA_DIR".to_owned(), STORE.into()),
        (COUNTED.to_owned(), "1".into()),
    ];
    job.mode = Mode::Counted;
    job.memory_mib = job.memory_mib.max(lab_memory(args.copy_mib));
    let per_copy = Duration::from_secs(1) * args.copy_mib;
    job.deadline = DEADLINE + per_copy * (args.copy_rounds + 1);
    job.silence = SILENCE + per_copy;
    let parts = Parts::ensure()?;
    let mut labs_left = LABS;
    loop {
        labs_left -= 1;
        let out = dir.path().join(format!("out{labs_left}"));
        job.out = Some(out.clone());
        match once_in_lab(&parts, &job) {
            Ok(()) => return read(&out.join("results.json")),
            Err(error) if labs_left > 0 => {
                println!("note: {error:#}\nnote: it is measured again, in another lab");
            }
            Err(error) => return Err(error),
        }
    }
}

/// In MiB: that of the guest, the file that is copied and what comes back of it, and what else there is.
const fn lab_memory(copy_mib: u32) -> u32 {
    copies::guest_memory(copy_mib) + 2 * copy_mib + 2048
}

fn once_in_lab(parts: &Parts, job: &Job) -> Result<()> {
    let outcome = sovereign_lab::run(parts, job, &mut |line| println!("{line}"))?;
    ensure!(
        outcome.exit_code == 0,
        "measuring in the lab failed with {}",
        outcome.exit_code
    );
    Ok(())
}

fn here_arguments(args: &MeasureArgs, firecracker: Option<&Path>, json: &Path) -> Vec<String> {
    let mut list = vec!["here".to_owned()];
    list.extend(["--runs".to_owned(), args.runs.to_string()]);
    list.extend(["--stream-mib".to_owned(), args.stream_mib.to_string()]);
    list.extend(["--copy-mib".to_owned(), args.copy_mib.to_string()]);
    list.extend(["--copy-rounds".to_owned(), args.copy_rounds.to_string()]);
    list.extend(["--json".to_owned(), json.display().to_string()]);
    if let Some(path) = firecracker {
        list.extend(["--firecracker".to_owned(), path.display().to_string()]);
    }
    list
}

/// Reads results that a process of this program has written.
pub(crate) fn read(json: &Path) -> Result<Results> {
    let text = fs::read_to_string(json).context("there are no results")?;
    serde_json::from_str(&text).context("the results cannot be understood")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_binaries_are_found_from_the_folder_of_tools() {
        let triple = tempfile::tempdir().unwrap();
        let release = triple.path().join("release");
        fs::create_dir(&release).unwrap();
        let ours = triple.path().join("tool/sovereign-bench");
        let told = release_folder(&ours).unwrap_err().to_string();
        assert!(told.contains("make build"), "{told}");
        for name in BINARIES {
            fs::write(release.join(name), "").unwrap();
        }
        assert_eq!(release_folder(&ours).unwrap(), release);
    }

    #[test]
    fn inner_command_line_is_one_that_we_understand() {
        use clap::Parser;

        let args = MeasureArgs {
            firecracker: None,
            runs: 3,
            stream_mib: 7,
            copy_mib: 9,
            copy_rounds: 1,
            file_mib: 11,
            json: None,
        };
        let list = here_arguments(&args, Some(Path::new("/f")), Path::new("/out/r.json"));
        let cli = crate::Cli::try_parse_from(["sovereign-bench".to_owned()].iter().chain(&list));
        let Some(crate::Command::Here(inner)) = cli.unwrap().command else {
            panic!("not here")
        };
        assert_eq!((inner.runs, inner.stream_mib), (3, 7));
        assert_eq!((inner.copy_mib, inner.copy_rounds), (9, 1));
        assert_eq!(inner.firecracker.as_deref(), Some(Path::new("/f")));
    }
}
