//! The conformance suite on the tiers that need no guest: here, as each kind of user, and on container
//! engines that are started for it alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::process::geteuid;
use sovereign_engines::{Addresses, Daemon, Engine};
use sovereign_tests::conformance::{COLUMNS, Outcome, Results, with_table};
use tempfile::TempDir;

use super::Programs;
use super::events::Events;
use crate::cargo::{merged, show, workspace};
use crate::report::{Report, Verdict};

/// `nobody`, whom every system has.
const NOBODY: u32 = 65_534;

/// Makes a namespace in which there can be no more of them, so that nothing can be confined.
const UNCONFINED: &str = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" \"$@\"";

/// The name of the suite for one column of the table.
pub(super) fn suite(column: &str) -> String {
    format!("conformance: {column}")
}

/// Runs the suite on all tiers but `microvm`, and the end-to-end tests that need a container engine.
pub(super) fn run(
    programs: &Programs,
    store: &Path,
    wanted: &dyn Fn(&str) -> bool,
    engine_tests: &[String],
    report: &mut Report,
) -> Result<()> {
    let runs = Runs {
        programs,
        store,
        wanted,
    };
    if geteuid().is_root() {
        runs.column(
            "local, as root",
            "local",
            merged(programs.conformance.as_os_str()),
            report,
        )?;
        let (_copies, command) = as_nobody(programs)?;
        runs.column("local", "local", command, report)?;
    } else {
        runs.column(
            "local",
            "local",
            merged(programs.conformance.as_os_str()),
            report,
        )?;
        runs.skip("local, as root", "only root can run it as root", report);
    }
    match unconfined(programs) {
        Some(command) => runs.column("local, unconfined", "local", command, report)?,
        None => runs.skip(
            "local, unconfined",
            "no user namespace can be made here",
            report,
        ),
    }
    for engine in Engine::ALL {
        let tier = engine.name();
        let start = format!("with_{tier}::");
        let tests: Vec<String> = engine_tests
            .iter()
            .filter(|name| name.starts_with(&start) && wanted(name))
            .cloned()
            .collect();
        if let Some(obstacle) = engine.obstacle() {
            runs.skip(tier, &obstacle, report);
            for name in &tests {
                report.add(super::SUITE, name, Verdict::Skipped(obstacle.clone()));
            }
            continue;
        }
        let folder = tempfile::tempdir()?;
        let daemon = Daemon::start(engine, folder.path(), Addresses::Socket, None)?;
        let mut command = merged(programs.conformance.as_os_str());
        command.env(engine.variable(), daemon.address());
        runs.column(tier, tier, command, report)?;
        runs.with_engine(&daemon, &tests, report);
    }
    Ok(())
}

/// What all runs have in common.
struct Runs<'a> {
    programs: &'a Programs,
    store: &'a Path,
    wanted: &'a dyn Fn(&str) -> bool,
}

impl Runs<'_> {
    fn column(
        &self,
        column: &str,
        tier: &str,
        mut command: Command,
        report: &mut Report,
    ) -> Result<()> {
        let names = self
            .programs
            .list(&self.programs.conformance, &["--tier", tier])?;
        let names: Vec<String> = names
            .into_iter()
            .filter(|name| (self.wanted)(name))
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        println!("\n== conformance suite: {column}");
        let mut events = Events::new(&names);
        // What the command was given stays.
        let given: Vec<_> = command
            .get_envs()
            .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)))
            .collect();
        self.programs
            .arm(&mut command, self.store)
            .args(["--tier", tier, "--require", "--format", "json"])
            .env("SOVEREIGN_E2E_ONLY", names.join(","));
        for (name, value) in given {
            command.env(name, value.unwrap_or_default());
        }
        let outcome = show(&mut command, &mut |line| events.read(line));
        let end = outcome.map(|_| "the suite ended early".to_owned());
        let end = end.unwrap_or_else(|error| format!("{error:#}"));
        events.finish(&end, |_| suite(column), report);
        Ok(())
    }

    /// Runs end-to-end tests that need this engine.
    fn with_engine(&self, daemon: &Daemon, tests: &[String], report: &mut Report) {
        if tests.is_empty() {
            return;
        }
        println!(
            "\n== end-to-end tests with an engine at {}",
            daemon.address()
        );
        let mut events = Events::new(tests);
        let mut command = merged(self.programs.tests.as_os_str());
        self.programs
            .arm(&mut command, self.store)
            .args(["--format", "json"])
            .env(daemon.engine().variable(), daemon.address())
            .env("SOVEREIGN_E2E_ONLY", tests.join(","));
        let outcome = show(&mut command, &mut |line| events.read(line));
        let end = outcome.map(|_| "the tests ended early".to_owned());
        let end = end.unwrap_or_else(|error| format!("{error:#}"));
        events.finish(&end, |_| super::SUITE.to_owned(), report);
    }

    fn skip(&self, column: &str, reason: &str, report: &mut Report) {
        report.add(
            &suite(column),
            "every case",
            Verdict::Skipped(reason.to_owned()),
        );
    }
}

/// The suite as an ordinary user, with copies of the programs: root's may lie where nobody gets at
/// them.
fn as_nobody(programs: &Programs) -> Result<(TempDir, Command)> {
    let copies = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o755))
        .tempdir()?;
    let copy = |source: &Path| {
        let name = source.file_name().context("a program without a name")?;
        let target = copies.path().join(name);
        fs::copy(source, &target).with_context(|| format!("cannot copy {}", source.display()))?;
        Ok::<_, anyhow::Error>(target)
    };
    let engine = copy(&programs.sovereign())?;
    let agent = copy(&programs.agent())?;
    let suite = copy(&programs.conformance)?;
    let data = copies.path().join("data");
    fs::create_dir(&data)?;
    chown(&data, Some(NOBODY), Some(NOBODY))?;
    let mut command = merged(suite.as_os_str());
    command
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .env("HOME", "/nonexistent")
        .env("SOVEREIGN_PROGRAM", engine)
        .env("SOVEREIGN_AGENT", agent)
        .env("SOVEREIGN_DATA_DIR", data);
    Ok((copies, command))
}

/// The suite where nothing can be confined; `None` where not even that can be had.
fn unconfined(programs: &Programs) -> Option<Command> {
    let unshare = |script: &str| {
        let mut command = merged("unshare".as_ref());
        command.args(["--user", "--map-root-user", "sh", "-c", script]);
        command
    };
    let possible = unshare(UNCONFINED).arg("true").status();
    possible.is_ok_and(|status| status.success()).then(|| {
        let mut command = unshare(UNCONFINED);
        command.arg(&programs.conformance);
        command
    })
}

/// Writes what was found out to the recorded results, and to the table in docs/conformance.md. Of cases
/// that did not run, what is recorded stays.
pub(crate) fn record(report: &Report) -> Result<()> {
    let (results, page) = (
        workspace().join("docs/conformance.json"),
        workspace().join("docs/conformance.md"),
    );
    let mut known = Results::read(&results)?;
    for column in COLUMNS {
        let found = report.of_suite(&suite(column));
        let cases: BTreeMap<_, _> = found
            .into_iter()
            .filter_map(|(name, verdict)| case(name, verdict))
            .collect();
        if !cases.is_empty() {
            known.merge(column, cases);
        }
    }
    known.retain(&all_cases()?);
    known.write(&results)?;
    let document = with_table(&fs::read_to_string(&page)?, &known.table())?;
    fs::write(&page, document).context("cannot write docs/conformance.md")?;
    ensure!(!report.failed(), "recorded, with failures");
    Ok(())
}

/// The names of all cases that the suite has, without a tier's name.
fn all_cases() -> Result<BTreeSet<String>> {
    let programs = Programs::find()?;
    let names = programs.list(&programs.conformance, &["--tier", "local"])?;
    let names = names.iter().filter_map(|name| name.split_once("::"));
    let names: BTreeSet<_> = names.map(|(_, name)| name.to_owned()).collect();
    ensure!(!names.is_empty(), "the suite has no cases");
    Ok(names)
}

/// A case of a tier, without the tier's name.
fn case(name: &str, verdict: &Verdict) -> Option<(String, Outcome)> {
    let (_, name) = name.split_once("::")?;
    let outcome = match verdict {
        Verdict::Passed => Outcome::Passed,
        Verdict::Failed(_) => Outcome::Failed,
        Verdict::Skipped(reason) => Outcome::Skipped(reason.clone()),
    };
    Some((name.to_owned(), outcome))
}
