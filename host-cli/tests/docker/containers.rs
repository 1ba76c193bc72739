//! What holds of a sandbox that is a container.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sovereign_engines::Engine;

use crate::machine::Machine;

/// A case, by its name.
pub(crate) type Case = (&'static str, fn(&Machine));

/// The case that needs a bridge.
pub(crate) const NETWORK: &str = "there_is_a_network_if_asked_for";

pub(crate) const CASES: &[Case] = &[
    ("the_image_is_imported_once", imported_once),
    ("exit_codes_are_the_commands_own", exit_codes),
    ("streams_are_kept_apart_and_live", streams),
    ("a_timeout_ends_the_whole_tree", timeouts),
    ("memory_and_processes_are_limited", limits),
    ("processes_are_limited_as_asked", processes),
    ("cpu_time_is_limited_as_asked", cpu_time),
    ("there_is_no_network", no_network),
    ("a_container_tells_whose_it_is", labels),
    ("an_image_without_our_user_does", without_user),
    ("fifty_sandboxes_run_at_once", fifty),
    ("a_named_daemon_that_is_slow_is_waited_for", slow),
    (
        "a_slow_daemon_is_waited_for_before_anything_weaker",
        slow_in_turn,
    ),
    (NETWORK, network),
    (
        "the_root_is_read_only_and_what_is_not_is_bounded",
        read_only,
    ),
    ("nothing_of_the_host_is_seen", no_host),
    (
        "commands_have_no_privilege_and_other_users_are_refused",
        users,
    ),
    ("flags_of_machines_are_refused", flags),
    ("any_image_of_the_daemon_can_be_named", own_images),
    ("orphans_are_reaped", orphans),
    ("a_run_leaves_nothing", nothing_left),
    ("a_killed_engine_leaves_nothing", killed),
    (
        "leftovers_of_the_dead_are_removed_and_others_stay",
        leftovers,
    ),
];

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

fn imported_once(machine: &Machine) {
    assert_eq!(machine.daemon.image_id(), None);
    assert_eq!(stdout(&machine.shell(&[], "echo one")), "one\n");
    let first = machine.daemon.image_id();
    assert!(first.is_some());
    assert_eq!(stdout(&machine.shell(&[], "echo two")), "two\n");
    assert_eq!(machine.daemon.image_id(), first);
    let doctor = machine.sovereign(&["--json", "doctor"]).output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let row = told["tiers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["tier"] == machine.tier())
        .unwrap();
    assert_eq!(row["available"], true, "{told}");
}

fn exit_codes(machine: &Machine) {
    let code = |line: &str| machine.shell(&[], line).status.code();
    assert_eq!(code("exit 7"), Some(7));
    assert_eq!(code("kill -9 $$"), Some(137));
    assert_eq!(machine.run(&["--", "/no/such"]).status.code(), Some(127));
    assert_eq!(machine.run(&["--", "/etc/passwd"]).status.code(), Some(126));
}

fn streams(machine: &Machine) {
    let output = machine.shell(&[], "echo out; echo err >&2; pwd");
    assert_eq!(text(&output.stdout), "out\n/home/sandbox\n");
    assert_eq!(text(&output.stderr), "err\n");
    let mut child = machine
        .command(&["-i", "--", "sh", "-c", "echo up; wc -c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Before the input has ended, or has even begun.
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    let mut input = child.stdin.take().unwrap();
    input.write_all(&vec![0xff; 3 << 20]).unwrap();
    drop(input);
    assert_eq!(lines.next().unwrap().unwrap().trim(), (3 << 20).to_string());
    assert!(child.wait().unwrap().success());
}

fn timeouts(machine: &Machine) {
    let began = Instant::now();
    let line = "trap '' TERM; sleep 100 & sleep 100 & wait";
    let output = machine.shell(&["--timeout", "1s"], line);
    assert_eq!(output.status.code(), Some(124));
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(machine.is_clean_soon());
}

fn limits(machine: &Machine) {
    let hungry = "head -c 200000000 /dev/zero | tail -c 200000000 | wc -c; echo alive";
    let output = machine.shell(&["-m", "64M"], hungry);
    assert!(!text(&output.stdout).contains("200000000"), "{output:?}");
    let fits = machine.shell(
        &["-m", "256M"],
        "head -c 9000000 /dev/zero | tail -c 9000000 | wc -c",
    );
    assert_eq!(stdout(&fits).trim(), "9000000");
    let processes = "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null; true";
    // Two for each MiB of memory.
    let allowed = machine.shell(&["-m", "512M"], processes);
    assert_eq!(stdout(&allowed).trim(), "1024");
}

/// A shell whose background jobs all run at once, and tell how many there could be.
fn processes(machine: &Machine) {
    let line = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 30 & done; \
                echo all";
    assert_eq!(
        stdout(&machine.shell(&["--pids-limit", "40"], line)),
        "all\n"
    );
    let output = machine.shell(&["--pids-limit", "12"], line);
    assert!(!output.status.success(), "{output:?}");
    assert!(text(&output.stderr).contains("fork"), "{output:?}");
}

fn cpu_time(machine: &Machine) {
    // cgroup v1 and v2.
    let line = "cat /sys/fs/cgroup/cpu.max 2>/dev/null || \
                cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us";
    let told = stdout(&machine.shell(&["--cpus", "1"], line));
    let numbers: Vec<u32> = told.split_whitespace().flat_map(str::parse).collect();
    assert!(
        matches!(numbers[..], [quota, period] if quota == period),
        "{told}"
    );
}

fn no_network(machine: &Machine) {
    assert_eq!(stdout(&machine.shell(&[], "ls /sys/class/net")), "lo\n");
}

fn network(machine: &Machine) {
    let listed = stdout(&machine.shell(&["--network", "bridge"], "ls /sys/class/net"));
    assert_eq!(listed, "eth0\nlo\n");
}

fn labels(machine: &Machine) {
    let mut child = machine
        .command(&["-i", "--", "sh", "-c", "echo up; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    let containers = machine.daemon.containers();
    let [name] = &containers[..] else {
        panic!("{containers:?}")
    };
    let container = machine.daemon.inspect(name);
    let labels = container.config.unwrap().labels.unwrap();
    assert_eq!(format!("/sovereign-{}", labels["sovereign.sandbox"]), *name);
    let owner = format!("{}-", child.id());
    assert!(labels["sovereign.owner"].starts_with(&owner), "{labels:?}");
    let host = container.host_config.unwrap();
    assert_eq!(host.readonly_rootfs, Some(true));
    assert_eq!(host.network_mode.as_deref(), Some("none"));
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

/// An image of the user's own may have neither our user nor our folders.
fn without_user(machine: &Machine) {
    let archive = machine.archive_without_user();
    machine.daemon.import("foreign", &archive);
    let image = ["--image", "docker:foreign:latest"];
    let line = "id -u; cd /home/sandbox && touch x && ls; touch /tmp/y && ls /tmp";
    assert_eq!(stdout(&machine.shell(&image, line)), "1000\nx\ny\n");
    let output = machine.run(&["--image", "debian:bookworm", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    let told = text(&output.stderr);
    assert!(told.contains("--image docker:debian:bookworm"), "{told}");
}

/// Nothing can take the place of a tier that was named.
fn slow(machine: &Machine) {
    let still = machine.daemon.stand_still();
    let mut child = machine.command(&["--", "true"]).spawn().unwrap();
    thread::sleep(Duration::from_millis(1500));
    drop(still);
    assert!(child.wait().unwrap().success());
}

/// The local tier has the user's consent, but is taken only if no container can be had.
fn slow_in_turn(machine: &Machine) {
    let nowhere = format!("unix://{}/none", machine.folder.path().display());
    let mut command = machine.sovereign(&["run", "--json", "--", "true"]);
    for engine in Engine::ALL {
        if engine != machine.daemon.engine() {
            command.env(engine.variable(), &nowhere);
        }
    }
    command.env("SOVEREIGN_ALLOW_LOCAL", "1");
    let still = machine.daemon.stand_still();
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_millis(1500));
    drop(still);
    let output = child.wait_with_output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["tier"], machine.tier(), "{told}");
}

fn fifty(machine: &Machine) {
    thread::scope(|scope| {
        let running: Vec<_> = (0..50)
            .map(|number| {
                let line = format!("echo {number}");
                scope.spawn(move || machine.shell(&["-m", "32M", "--boot-timeout", "2m"], &line))
            })
            .collect();
        for (number, thread) in running.into_iter().enumerate() {
            assert_eq!(stdout(&thread.join().unwrap()), format!("{number}\n"));
        }
    });
    assert!(machine.is_clean_soon(), "{:?}", machine.daemon.containers());
}

fn read_only(machine: &Machine) {
    let output = machine.shell(&[], "touch /x /etc/x /bin/x /run/x; ls /x");
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("Read-only"), "{output:?}");
    for place in ["/tmp", "/var/tmp", "/home/sandbox"] {
        let fill = |bytes: u32| {
            let line = format!("head -c {bytes} /dev/zero > {place}/f");
            machine
                .shell(&["--overlay-size", "8M"], &line)
                .status
                .success()
        };
        assert!(fill(6 << 20) && !fill(9 << 20), "{place}");
    }
}

fn no_host(machine: &Machine) {
    let marker = machine.folder.path().join("marker");
    fs::write(&marker, "here").unwrap();
    let line = format!(
        "ls {} /run/sovereign/host/* 2>/dev/null; true",
        marker.display()
    );
    assert_eq!(stdout(&machine.shell(&[], &line)), "");
    // The agent, the session, and the command itself.
    let processes = stdout(&machine.shell(&[], "ls -d /proc/[0-9]* | wc -l"));
    assert!(processes.trim().parse::<u32>().unwrap() < 8, "{processes}");
    let mut command = machine.command(&["--", "env"]);
    let output = command.env("SECRET_OF_HOST", "1").output().unwrap();
    assert!(!stdout(&output).contains("SECRET"));
}

fn users(machine: &Machine) {
    let line = "id -u; while read name value; do case $name in CapBnd:|CapEff:|NoNewPrivs:) \
                echo $value;; esac; done < /proc/self/status";
    let output = stdout(&machine.shell(&[], line));
    let zero = "0000000000000000";
    assert_eq!(output, format!("1000\n{zero}\n{zero}\n1\n"));
    for user in ["root", "0", "1001"] {
        let output = machine.run(&["-u", user, "--", "true"]);
        assert_eq!(output.status.code(), Some(125));
        let told = text(&output.stderr);
        let refusal = format!("tier {} cannot honour --user", machine.tier());
        assert!(told.contains(&refusal), "{told}");
    }
}

fn flags(machine: &Machine) {
    let output = machine.run(&["--kernel", "/etc/passwd", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    let refusal = format!("tier {} cannot honour --kernel", machine.tier());
    assert!(text(&output.stderr).contains(&refusal));
}

fn own_images(machine: &Machine) {
    let named = [
        "--image",
        "docker:terminai-sandbox:latest",
        "--",
        "id",
        "-u",
    ];
    assert_eq!(stdout(&machine.run(&named)), "1000\n");
    let output = machine.run(&["--image", "docker:no-such-image", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    let told = text(&output.stderr);
    let remedy = format!("{} pull no-such-image", machine.tier());
    assert!(told.contains(&remedy), "{told}");
    let output = machine.run(&["--image", "docker:", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    let told = text(&output.stderr);
    assert!(told.contains("docker: names no image"), "{told}");
}

/// The agent is the first process of the container, and so whoever has lost its parent is its.
fn orphans(machine: &Machine) {
    let line = "for i in 1 2 3; do (sleep 0.1 &); done; sleep 0.5; for file in /proc/[0-9]*/stat; do \
                read -r id name state rest < $file && [ $state = Z ] && echo $name; done; echo end";
    assert_eq!(stdout(&machine.shell(&[], line)), "end\n");
}

fn nothing_left(machine: &Machine) {
    stdout(&machine.shell(&[], "sleep 1000 & true"));
    assert!(machine.is_clean_soon(), "{:?}", machine.daemon.containers());
}

fn killed(machine: &Machine) {
    let line = "echo up; sleep 1000 & sleep 1000";
    let mut child = machine
        .command(&["--", "sh", "-c", line])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    assert_eq!(machine.daemon.containers().len(), 1);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(machine.is_clean_soon(), "{:?}", machine.daemon.containers());
}

fn leftovers(machine: &Machine) {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let space = fs::read_link("/proc/self/ns/pid").unwrap();
    let space = space
        .to_str()
        .unwrap()
        .trim_matches(|c: char| !c.is_ascii_digit());
    // No process has this number (proc(5), pid_max).
    let dead = format!("4194305-7-{space}-00");
    let foreign = format!("4194305-7-{}-00", 1);
    let labels = |id| [("sovereign.sandbox", id), ("sovereign.boot", boot.trim())];
    machine.daemon.create("dead", &labels(&dead));
    machine.daemon.create("foreign", &labels(&foreign));
    machine
        .daemon
        .create("stranger", &[("sovereign.sandbox", &dead)]);
    let pruned = |flags: &[&str]| -> Vec<String> {
        let flags = [&["prune", "--json"], flags].concat();
        let output = machine.sovereign(&flags).output().unwrap();
        let told: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        let names = told["leftovers"].as_array().unwrap().iter();
        let containers = names.filter(|left| left["kind"] == "container");
        containers
            .map(|left| left["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(pruned(&["--dry-run"]), ["dead"]);
    assert_eq!(pruned(&[]), ["dead"]);
    assert!(pruned(&[]).is_empty());
    machine.daemon.create("dead", &labels(&dead));
    stdout(&machine.shell(&[], "true"));
    let mut left = machine.daemon.containers();
    left.retain(|name| !name.starts_with("/sovereign-"));
    left.sort();
    assert_eq!(left, ["/foreign", "/stranger"]);
    machine.daemon.remove("foreign");
    machine.daemon.remove("stranger");
    assert!(machine.is_clean_soon());
}
