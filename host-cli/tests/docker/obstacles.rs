//! What `doctor` says of a daemon that cannot be had.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const CASES: &[(&str, fn())] = &[
    (
        "obstacles::no_socket_is_told_with_where_it_was_looked_for",
        no_socket,
    ),
    ("obstacles::a_daemon_that_is_stopped_is_told", stopped),
    (
        "obstacles::a_daemon_that_never_answers_holds_nothing_up",
        wedged,
    ),
    (
        "obstacles::a_daemon_that_takes_no_connection_holds_nothing_up",
        full,
    ),
    ("obstacles::who_gives_up_waits_for_no_daemon", given_up),
    (
        "obstacles::a_socket_that_one_may_not_open_is_told",
        forbidden,
    ),
    (
        "obstacles::a_daemon_that_cannot_be_spoken_to_is_told",
        remote,
    ),
    (
        "obstacles::a_silent_daemon_elsewhere_holds_nothing_up",
        remote_silence,
    ),
    ("obstacles::a_thing_that_is_no_daemon_is_told", nonsense),
];

struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn socket(&self) -> std::path::PathBuf {
        self.0.path().join("d.sock")
    }

    fn doctor(&self, program: &Path, address: &str) -> Command {
        let mut command = Command::new(program);
        command
            .args(["--json", "doctor"])
            .env_clear()
            .env("HOME", self.0.path())
            .env("DOCKER_HOST", address)
            .env("CONTAINER_HOST", address)
            .stdin(Stdio::null());
        command
    }

    /// What is told of the tiers docker and podman with a daemon at this address.
    fn told(&self, address: &str) -> [Value; 2] {
        rows(&mut self.doctor(Path::new(env!("CARGO_BIN_EXE_sovereign")), address))
    }

    fn told_of_socket(&self) -> [Value; 2] {
        self.told(&format!("unix://{}", self.socket().display()))
    }
}

fn rows(doctor: &mut Command) -> [Value; 2] {
    let output = doctor.output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tiers = told["tiers"].as_array().unwrap();
    ["docker", "podman"].map(|name| {
        let row = tiers.iter().find(|row| row["tier"] == name);
        row.unwrap().clone()
    })
}

fn check(rows: [Value; 2], code: &str, cause: &str) {
    for row in rows {
        assert_eq!(row["available"], false);
        assert_eq!(row["code"], code, "{row}");
        assert!(row["cause"].as_str().unwrap().contains(cause), "{row}");
        assert!(row["remedy"].is_string(), "{row}");
    }
}

fn no_socket() {
    check(Home::new().told_of_socket(), "no-daemon", "d.sock");
}

fn stopped() {
    let home = Home::new();
    drop(UnixListener::bind(home.socket()).unwrap());
    check(home.told_of_socket(), "daemon-stopped", "d.sock");
}

fn wedged() {
    let home = Home::new();
    let _listener = UnixListener::bind(home.socket()).unwrap();
    let began = Instant::now();
    check(home.told_of_socket(), "daemon-silent", "400 ms");
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

fn full() {
    let home = Home::new();
    let listener = UnixListener::bind(home.socket()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _waiting = UnixStream::connect(home.socket()).unwrap();
    let began = Instant::now();
    check(home.told_of_socket(), "daemon-silent", "d.sock");
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

/// Both are asked once more before anything weaker is taken, which the user does not wait for.
fn given_up() {
    let home = Home::new();
    let _listener = UnixListener::bind(home.socket()).unwrap();
    let address = format!("unix://{}", home.socket().display());
    for flags in [&["--tier", "docker"][..], &["--min-isolation", "container"]] {
        let began = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_sovereign"))
            .arg("run")
            .args(flags)
            .args(["--", "true"])
            .env_clear()
            .env("HOME", home.0.path())
            .env("DOCKER_HOST", &address)
            .env("CONTAINER_HOST", &address)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(1200));
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.unwrap(), Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{told}");
        assert!(told.contains("interrupted"), "{told}");
        assert!(
            began.elapsed() < Duration::from_millis(2700),
            "{:?}",
            began.elapsed()
        );
    }
}

/// Root may open any socket, so root becomes somebody else for this.
fn forbidden() {
    let home = Home::new();
    let _listener = UnixListener::bind(home.socket()).unwrap();
    fs::set_permissions(home.socket(), Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(home.0.path(), Permissions::from_mode(0o755)).unwrap();
    let program = home.0.path().join("sovereign");
    fs::copy(env!("CARGO_BIN_EXE_sovereign"), &program).unwrap();
    let address = format!("unix://{}", home.socket().display());
    let mut doctor = home.doctor(&program, &address);
    if rustix::process::getuid().is_root() {
        doctor.uid(65534).gid(65534);
    }
    check(rows(&mut doctor), "daemon-permission", "may not connect");
}

fn remote() {
    let told = Home::new().told("ssh://host");
    check(told, "remote-daemon", "ssh://host");
    let home = Home::new();
    let mut doctor = home.doctor(
        Path::new(env!("CARGO_BIN_EXE_sovereign")),
        "tcp://127.0.0.1:2376",
    );
    let [docker, _] = rows(doctor.env("DOCKER_TLS_VERIFY", "1"));
    assert_eq!(docker["code"], "daemon-tls", "{docker}");
}

/// A port that nobody listens at, and one whose listener never answers.
fn remote_silence() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let began = Instant::now();
    check(Home::new().told(&address), "daemon-silent", "400 ms");
    assert!(began.elapsed() < Duration::from_secs(1));
    drop(listener);
    check(Home::new().told(&address), "daemon-stopped", &address);
}

fn nonsense() {
    let home = Home::new();
    let listener = UnixListener::bind(home.socket()).unwrap();
    let thread = thread::spawn(move || {
        use std::io::Write;
        // Two tiers, each with a first connection and then a request.
        for _ in 0..4 {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(b"SSH-2.0-x\r\n");
        }
    });
    check(home.told_of_socket(), "daemon-broken", "no usable answer");
    thread.join().unwrap();
}
