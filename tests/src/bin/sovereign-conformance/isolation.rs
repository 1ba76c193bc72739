//! What a command cannot see, reach or change of the host and of other sandboxes.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::facts::Need;
use crate::probes;
use crate::subject::{Runs, Subject, read_line, take};
use crate::suite::{Suite, needing};

pub(crate) fn add(suite: &mut Suite) {
    const WALLS: &[Need] = &[Need::Walls];
    const WITH_PYTHON: &[Need] = &[Need::Walls, Need::Python];
    suite.add(
        "isolation",
        [
            needing("host_files_are_not_there", WALLS, host_files),
            needing("host_environment_is_not_there", WALLS, host_environment),
            needing("host_processes_cannot_be_seen", WALLS, host_processes),
            needing("host_processes_cannot_be_signalled", WALLS, signals),
            needing("host_network_cannot_be_reached", WITH_PYTHON, network),
            needing(
                "loopback_is_the_only_interface_and_works",
                WITH_PYTHON,
                loopback,
            ),
            needing(
                "agent_cannot_be_asked_by_commands",
                WITH_PYTHON,
                agent_is_deaf,
            ),
            needing("agent_survives_its_commands", WALLS, agent_survives),
            needing("system_cannot_be_changed", WALLS, read_only),
            needing("other_sandboxes_cannot_be_seen", WALLS, other_sandboxes),
        ],
    );
}

/// A process of the host that sleeps until it is dropped.
struct Sleeper(Child);

impl Sleeper {
    fn start(seconds: &str) -> Result<Self> {
        let mut command = Command::new("sleep");
        command.arg(seconds).stdin(Stdio::null());
        Ok(Self(command.spawn().context("cannot start sleep")?))
    }

    fn is_alive(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn host_files(subject: &Subject) -> Result<()> {
    for folder in ["/tmp", "/var/tmp", "/dev/shm"] {
        if !fs::metadata(folder).is_ok_and(|metadata| metadata.is_dir()) {
            continue;
        }
        // It could be read and changed by everybody, if it were there.
        let secret = tempfile::Builder::new()
            .prefix("secret")
            .tempfile_in(folder)?;
        fs::write(secret.path(), "from the host")?;
        fs::set_permissions(secret.path(), Permissions::from_mode(0o666))?;
        let path = secret.path().to_str().context("a strange name")?;
        let script =
            format!("cat {path}; ls {folder} | grep secret; echo theirs > {path}; rm {path}");
        let ended = subject.sh(&script)?;
        ensure!(ended.stdout.is_empty(), "{ended}");
        ensure!(
            fs::read_to_string(path)? == "from the host",
            "{path} was changed"
        );
    }
    let ours = std::env::current_exe()?;
    let script = format!("ls '{}' 2>/dev/null; echo none", ours.display());
    subject.sh(&script)?.says("none")
}

fn host_environment(subject: &Subject) -> Result<()> {
    // Every process that can be seen, the agent first.
    let ended = subject.sh("cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | sort -u")?;
    let text = ended.text();
    for name in [
        "SOVEREIGN_",
        "CARGO",
        "DOCKER_HOST",
        "CONTAINER_HOST",
        "XDG_",
    ] {
        ensure!(!text.contains(name), "{name}: {ended}");
    }
    Ok(())
}

fn host_processes(subject: &Subject) -> Result<()> {
    let _sleeper = Sleeper::start("7010")?;
    let script = "for line in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $line; echo; done";
    let ended = subject.sh(script)?;
    let text = ended.text();
    ensure!(
        !text.contains("sleep 7010") && !text.contains("sovereign-conf"),
        "{ended}"
    );
    ensure!(
        text.contains("/proc/"),
        "a command sees not even itself: {ended}"
    );
    Ok(())
}

fn signals(subject: &Subject) -> Result<()> {
    let mut sleeper = Sleeper::start("7011")?;
    let own = subject.start(|_| ())?;
    let script = format!(
        "kill -9 {} {}; kill -9 -- -1",
        sleeper.0.id(),
        std::process::id()
    );
    // Killing all that it may signal, the shell may kill itself.
    own.sh(&script)?;
    ensure!(sleeper.is_alive()?, "a process of the host was killed");
    own.run(["echo", "still here"])?.says("still here")
}

fn network(subject: &Subject) -> Result<()> {
    let tcp = TcpListener::bind("0.0.0.0:0")?;
    let port = tcp.local_addr()?.port();
    let name = format!("sovereign-conformance-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    let ended = subject.python(&probes::reaching_the_host(port, &name))?;
    ended.ends_with(0)?;
    ensure!(
        ended.text().lines().all(|line| line.starts_with("refused")),
        "{ended}"
    );
    ensure!(
        ended.text().lines().count() == probes::WAYS_TO_THE_HOST,
        "{ended}"
    );
    Ok(())
}

fn loopback(subject: &Subject) -> Result<()> {
    subject.python(probes::LOOPBACK)?.says("lo\nping")
}

fn agent_is_deaf(subject: &Subject) -> Result<()> {
    let ended = subject.python(probes::REACHING_THE_AGENT)?;
    ended.ends_with(0)?;
    ensure!(!ended.text().contains("reached"), "{ended}");
    Ok(())
}

fn agent_survives(subject: &Subject) -> Result<()> {
    let script = "kill -9 1; kill -TERM 1; kill -STOP 1; kill -SEGV 1; cat /proc/1/mem /proc/1/environ; \
                  ls /proc/1/fd/ /proc/1/root/ /proc/1/cwd/; echo x > /proc/1/oom_score_adj; \
                  sleep 0.1; echo alive";
    subject.sh(script)?.says("alive")?;
    subject.run(["echo", "serves"])?.says("serves")
}

fn read_only(subject: &Subject) -> Result<()> {
    let script = "for folder in / /usr /usr/bin /usr/lib /bin /etc /dev /run /home /var /proc /sys \
                  /proc/sys/kernel; do \
                  if touch \"$folder/mark-7\" 2>/dev/null; then echo \"$folder\"; fi; done; \
                  for file in /etc/passwd /bin/sh /usr/bin/env; do \
                  if test -w $file; then echo $file; fi; done; echo end";
    subject.sh(script)?.says("end")
}

fn other_sandboxes(subject: &Subject) -> Result<()> {
    let other = subject.start(|_| ())?;
    let mut theirs = other.spawn("echo 'a secret' > /tmp/theirs-7; echo up; exec sleep 7012")?;
    ensure!(read_line(&mut take(&mut theirs.stdout)?)? == "up\n");
    let script = "for line in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $line; echo; done; \
                  cat /tmp/theirs-7";
    let ended = subject.sh(script)?;
    let text = ended.text();
    ensure!(
        !text.contains("sleep 7012") && !text.contains("a secret"),
        "{ended}"
    );
    Ok(())
}
