//! What a sandbox may use up, and that what cannot be bounded is refused.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sovereign::sandbox::overdue;
use sovereign::{ExecRequest, SandboxSpec, StartError};
use sovereign_tests::host::processes;

use crate::facts::Need;
use crate::subject::{Own, Runs, Subject, sh, wait_until};
use crate::suite::{Suite, needing};

pub(crate) fn add(suite: &mut Suite) {
    suite.add(
        "limits",
        [
            needing("files_are_bounded", &[Need::BoundedFiles], files),
            needing(
                "all_places_share_the_bound_of_files",
                &[Need::SharedBound],
                files_together,
            ),
            needing(
                "number_of_files_is_bounded",
                &[Need::BoundedFileCount],
                number_of_files,
            ),
            needing("memory_is_bounded", &[Need::BoundedMemory], memory),
            needing(
                "processes_are_as_many_as_were_asked_for",
                &[Need::ProcessLimit],
                processes_asked_for,
            ),
            needing(
                "fork_bomb_ends_in_time",
                &[Need::BoundedProcesses],
                fork_bomb,
            ),
            needing(
                "one_cpu_is_one",
                &[Need::BoundedCpus, Need::Python],
                one_cpu,
            ),
            needing(
                "what_cannot_be_bounded_is_refused_by_name",
                &[Need::Unbounded],
                refusals,
            ),
        ],
    );
}

/// That a sandbox that has been filled up still runs commands.
fn still_serves(own: &Own) -> Result<()> {
    let ended = own
        .run(["echo", "still here"])
        .context("the sandbox is of no more use")?;
    ended.says("still here")
}

fn files(subject: &Subject) -> Result<()> {
    const BOUND_MIB: u32 = 16;
    let own = subject.start(|spec| spec.overlay_mib = Some(BOUND_MIB))?;
    for folder in ["$HOME", "/tmp", "/var/tmp"] {
        let script = format!(
            "dd if=/dev/zero of={folder}/big bs=1M count=64; cat {folder}/big | wc -c; \
             rm {folder}/big; echo x > {folder}/small && cat {folder}/small"
        );
        let ended = own.sh(&script)?;
        let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
        ensure!(errors.contains("No space left"), "{folder}: {ended}");
        let text = ended.text();
        let (written, small) = text.split_once('\n').with_context(|| ended.to_string())?;
        let written: u64 = written.parse().with_context(|| ended.to_string())?;
        let bound = u64::from(BOUND_MIB) << 20;
        ensure!(
            (bound / 4..=bound).contains(&written) && small == "x",
            "{folder}: {ended}"
        );
    }
    Ok(())
}

fn files_together(subject: &Subject) -> Result<()> {
    const BOUND_MIB: u32 = 16;
    let own = subject.start(|spec| spec.overlay_mib = Some(BOUND_MIB))?;
    let script = "for folder in /tmp /var/tmp /dev/shm .; do \
                  dd if=/dev/zero of=$folder/x bs=1M count=64 2>/dev/null; done; \
                  cat /tmp/x /var/tmp/x /dev/shm/x ./x | wc -c";
    let written = own.sh(script)?.number()?;
    let bound = u64::from(BOUND_MIB) << 20;
    ensure!((bound / 2..=bound).contains(&written), "{written} bytes");
    Ok(())
}

fn number_of_files(subject: &Subject) -> Result<()> {
    let own = subject.start(|spec| spec.overlay_mib = Some(1))?;
    let script = "mkdir many; i=0; while : 2>/dev/null > many/$i; do i=$((i+1)); \
                  test $i -lt 100000 || break; done; echo $i; rm -r many";
    // The shell ends where it cannot open a file for `:`, which is a special built-in.
    let ended = own.output(
        sh(&format!("sh -c '{script}'; find many -type f | wc -l")),
        b"",
    )?;
    let text = ended.text();
    let count: u64 = text
        .lines()
        .last()
        .unwrap_or_default()
        .parse()
        .with_context(|| ended.to_string())?;
    ensure!(
        (10..20_000).contains(&count),
        "{count} files in 1 MiB: {ended}"
    );
    still_serves(&own)
}

fn memory(subject: &Subject) -> Result<()> {
    let own = subject.start(|spec| spec.memory_mib = Some(128))?;
    // `tail` keeps all that it may have to print: 400 MiB in one line.
    let ended = own.sh("head -c 400M /dev/zero | tail -n 1 | wc -c")?;
    ensure!(ended.text() != "419430400", "400 MiB fit in 128: {ended}");
    still_serves(&own)?;
    own.sh("head -c 20M /dev/zero | tail -n 1 | wc -c")?
        .says("20971520")
}

fn processes_asked_for(subject: &Subject) -> Result<()> {
    const LIMIT: u32 = 40;
    let own = subject.start(|spec| spec.processes = Some(LIMIT))?;
    let some = "i=0; while test $i -lt 200; do sleep 7013 >/dev/null 2>&1 & i=$((i+1)); done";
    // A shell that cannot fork gives up. What it has started goes with its group.
    let ended = own.sh(&format!("({some}; echo all); kill -9 0"))?;
    ended.ends_with(137)?;
    ensure!(ended.text() != "all", "200 processes ran: {ended}");
    wait_until("the sandbox has processes to spare again", || {
        Ok(still_serves(&own).is_ok())
    })
}

/// Processes of this machine; those of the microVM tier's guests are not among them.
fn host_processes() -> Result<usize> {
    Ok(processes()?.len())
}

fn fork_bomb(subject: &Subject) -> Result<()> {
    let own = subject.start(|_| ())?;
    let before = host_processes()?;
    let limit = Duration::from_secs(3);
    let bomb = ExecRequest {
        timeout: Some(limit),
        // The shell has nothing more to fork then: a bomb may be faster than it.
        ..sh("bomb() { bomb | bomb & }; sleep 100 & bomb 2>/dev/null; wait")
    };
    let began = Instant::now();
    let code = match own.exec(bomb.clone())?.output(b"", 1024) {
        Ok(output) => output.report.exit_code(),
        // What a sandbox has left for its agent may not be enough for it to say so.
        Err(error) => match overdue(&bomb, began, &error.into()) {
            Some(report) => report.exit_code(),
            None => bail!("neither an end nor the time limit"),
        },
    };
    ensure!(began.elapsed() < limit + Duration::from_secs(30));
    // Its time is up, unless the bomb has taken all memory first, and its shell was chosen for that.
    ensure!([124, 137].contains(&code), "exit code {code}");
    drop(own);
    wait_until("the bomb's processes are gone", || {
        Ok(host_processes()? < before + 50)
    })?;
    // What happened there is nobody else's business.
    subject.run(["echo", "unharmed"])?.says("unharmed")
}

fn one_cpu(subject: &Subject) -> Result<()> {
    // CPU seconds of three busy processes, per second.
    let program = "import os, time\n\
                   began = time.monotonic()\n\
                   for _ in range(3):\n\
                   \x20   if os.fork() == 0:\n\
                   \x20       while time.monotonic() < began + 2: pass\n\
                   \x20       os._exit(0)\n\
                   for _ in range(3): os.wait()\n\
                   wall = time.monotonic() - began\n\
                   used = os.times()\n\
                   print(round(100 * (used.children_user + used.children_system) / wall))\n";
    let own = subject.start(|spec| spec.cpus = Some(1))?;
    let per_cent = own.python(program)?.number()?;
    ensure!(per_cent <= 125, "one CPU gave {per_cent} % of one");
    Ok(())
}

/// Asks for something.
type Change = fn(&mut SandboxSpec);

fn refusals(subject: &Subject) -> Result<()> {
    let changes: [(Need, &str, Change); 5] = [
        (Need::BoundedMemory, "--memory", |spec| {
            spec.memory_mib = Some(128)
        }),
        (Need::BoundedCpus, "--cpus", |spec| spec.cpus = Some(1)),
        (Need::BoundedFiles, "--overlay-size", |spec| {
            spec.overlay_mib = Some(16)
        }),
        (Need::ProcessLimit, "--pids-limit", |spec| {
            spec.processes = Some(64);
        }),
        (Need::HostName, "--hostname", |spec| {
            spec.hostname = Some("box".to_owned())
        }),
    ];
    for (need, flag, change) in changes {
        if subject.lacks(need).is_none() {
            continue;
        }
        let error = subject.refuses(change)?;
        let StartError::Unsupported(refusal) = &error else {
            bail!("{flag}: not refused by name: {error}");
        };
        ensure!(
            refusal.flag == flag && error.to_string().contains(subject.tier_name()),
            "{error}"
        );
    }
    Ok(())
}
