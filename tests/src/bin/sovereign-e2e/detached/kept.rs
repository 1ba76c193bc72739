//! What is written in a sandbox that stays is there when it starts again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::Desk;
use crate::small_disk::SmallDisk;
use crate::suite::{Outcome, PASSED, skip};

/// Places that every tier lets commands write to.
const PLACES: [&str; 3] = ["$HOME", "/tmp", "/var/tmp"];

impl Desk {
    /// What a script in the sandbox `a` prints.
    fn sh(&self, script: &str) -> Result<String> {
        self.says(&["exec", "a", "--", "sh", "-c", script])
    }
}

pub(super) fn what_is_written_outlives_a_stop_until_it_is_removed(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    for place in PLACES {
        desk.sh(&format!(
            "mkdir {place}/kept && cd {place}/kept && echo text > file && chmod 640 file && \
             ln -s file link && touch -d @1000000000 file"
        ))?;
    }
    if desk.tier == "microvm" {
        let script = "echo ours > /etc/ours; chown 1234:1235 /etc/ours; chmod 4755 /etc/ours; \
                      rm /etc/hostname; mv /opt /srv/opt";
        desk.says(&["exec", "-u", "root", "a", "--", "sh", "-c", script])?;
    }
    // Of what its user cannot enter nothing is left in the end either.
    desk.sh("mkdir -p shut/in/there && chmod 0 shut/in && chmod 500 shut")?;
    for _ in 0..2 {
        desk.says(&["stop", "-t", "1s", "a"])?;
        desk.says(&["start", "a"])?;
        for place in PLACES {
            let look = format!("cat {place}/kept/link; stat -c '%a %u %Y' {place}/kept/file");
            let found = desk.call(["exec", "a", "--", "sh", "-c", &look]).output()?;
            ensure!(
                found.text() == "text\n640 1000 1000000000",
                "{place}: {found}"
            );
        }
        // What is for one life only.
        desk.sh("test ! -e /dev/shm/x && echo x > /dev/shm/x")?;
    }
    if desk.tier == "microvm" {
        let root =
            "cat /etc/ours; stat -c '%a %u:%g' /etc/ours; ls -d /etc/hostname /opt /srv/opt 2>&1";
        let found = desk.sh(&format!("{root}; true"))?;
        ensure!(
            found.starts_with("ours\n4755 1234:1235\n") && found.ends_with("/srv/opt"),
            "{found}"
        );
    }
    desk.says(&["rm", "-f", "a"])?;
    let left: Vec<_> = fs::read_dir(desk.state.path().join("sandboxes"))?.collect();
    ensure!(left.is_empty(), "{left:?}");
    // One of the same name is another.
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    for place in PLACES {
        desk.sh(&format!("test ! -e {place}/kept"))?;
    }
    PASSED
}

pub(super) fn what_is_written_outlives_a_killed_sandbox(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    desk.sh("echo safe > safe; sync safe; echo later > later")?;
    // More than a machine that is killed may lose.
    std::thread::sleep(Duration::from_secs(6));
    let holder = desk.inspect("a")?["process"]
        .as_i64()
        .context("no process")?;
    let supervisors = desk.supervisors()?;
    let pids = supervisors.iter().map(|pid| i64::from(*pid));
    for pid in pids.chain([holder]) {
        let pid = Pid::from_raw(i32::try_from(pid)?).context("no process id")?;
        // It may have ended with its supervisor.
        let _ = kill_process(pid, Signal::KILL);
    }
    desk.sees_it_die(u32::try_from(holder)?)?;
    desk.says(&["start", "a"])?;
    let found = desk.sh("cat safe later")?;
    ensure!(found == "safe\nlater", "{found}");
    // What is killed by its user has its say.
    desk.sh("echo last > last")?;
    desk.says(&["kill", "a"])?;
    desk.says(&["start", "a"])?;
    ensure!(desk.sh("cat last")? == "last", "it was killed");
    desk.says(&["rm", "-f", "a"])?;
    let left: Vec<_> = fs::read_dir(desk.state.path().join("sandboxes"))?.collect();
    ensure!(left.is_empty(), "{left:?}");
    PASSED
}

pub(super) fn disk_is_bounded_or_refused(desk: &Desk) -> Outcome {
    for size in ["1M", "9000T", "x", "0"] {
        let run = desk.run(&["-d", "--disk", size, "--", "true"]).output()?;
        ensure!(run.code() == Some(125), "{size}: {run}");
    }
    let attached = desk.run(&["--disk", "64M", "--", "true"]).output()?;
    ensure!(
        attached.code() == Some(125) && attached.errors().contains("give it a name"),
        "{attached}"
    );
    let run = desk.run(&["-d", "--name", "a", "--disk", "64M", "--", "sleep", "1000"]);
    if desk.tier != "microvm" {
        let refused = run.output()?;
        ensure!(
            refused.code() == Some(125)
                && refused.errors().contains("--disk")
                && refused.errors().contains(desk.tier),
            "{refused}"
        );
        return PASSED;
    }
    desk.good(run)?;
    let fill = "dd if=/dev/zero of=full bs=1M count=200 2>&1; wc -c < full";
    let said = desk.sh(fill)?;
    ensure!(said.contains("No space left"), "{said}");
    let bytes: u64 = said.lines().last().unwrap_or_default().trim().parse()?;
    ensure!((32 << 20..64 << 20).contains(&bytes), "{said}");
    ensure!(desk.sh("echo still here")? == "still here");
    desk.sh("rm full; echo small > small; cat small")?;
    // What nobody wants any more is given back to this machine.
    let folder = desk.inspect("a")?["folder"]
        .as_str()
        .context("no folder")?
        .to_owned();
    let disk = Path::new(&folder).join("disk");
    desk.eventually("its room is given back", || {
        Ok(fs::metadata(&disk)?.blocks() * 512 < 16 << 20)
    })?;
    desk.says(&["stop", "a"])?;
    desk.says(&["start", "a"])?;
    ensure!(desk.sh("cat small; ls full 2>/dev/null; true")? == "small");
    PASSED
}

/// A disk of this machine that is full is an error of the guest's, and its sandbox goes on.
pub(super) fn full_disk_of_the_host_is_the_guests_error(desk: &Desk) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can mount a small file system");
    }
    let script = "export SOVEREIGN_STATE_DIR=\"$1\"
        \"$2\" run -q -d --tier microvm --name a -- sleep 1000 || exit 98
        \"$2\" exec a -- sh -c 'dd if=/dev/zero of=x bs=1M count=100; sync x' 2>&1
        \"$2\" exec a -- echo still here
        \"$2\" rm -f a; find \"$1/sandboxes\" -mindepth 1";
    let disk = SmallDisk::of("40m", desk.state.path());
    let output = match disk.run(desk.program(), script)? {
        Ok(output) => output,
        Err(reason) => return skip(reason),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let told = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{told} {said}");
    ensure!(
        told.contains("rror") && told.contains("still here"),
        "{told} {said}"
    );
    ensure!(!told.contains("/sandboxes/"), "something is left: {told}");
    PASSED
}
