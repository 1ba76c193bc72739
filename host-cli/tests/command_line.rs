//! The program as a process, as far as it goes without a guest: wrong use, `doctor`, images,
//! what is generated.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A user's home without images and configuration.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sovereign"));
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.0.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn configure(&self, text: &str) {
        let folder = self.0.path().join(".config/sovereign");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.toml"), text).unwrap();
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn wrong_use_exits_125_and_names_what_is_wrong() {
    let home = Home::new();
    let cases: [(&[&str], &str); 16] = [
        (
            &["run", "--cpus", "33", "--", "true"],
            "33 CPUs: a sandbox has 1 to 32",
        ),
        (&["run", "--cpus", "0", "--", "true"], "0 CPUs"),
        (
            &["run", "-m", "16M", "--", "true"],
            "16 MiB of memory: a sandbox needs at least 32 MiB",
        ),
        (
            &["run", "-m", "512", "--", "true"],
            "a size is a whole number and a unit",
        ),
        (&["run", "-m", "999999G", "--", "true"], "this machine has"),
        (
            &["run", "--timeout", "soon", "--", "true"],
            "a duration is a number and a unit",
        ),
        (&["run", "--kill-after", "1s", "--", "true"], "--timeout"),
        (&["run", "--tier", "vm", "--", "true"], "microvm"),
        (
            &["run", "--min-isolation", "strong", "--", "true"],
            "container",
        ),
        (
            &["run", "--hostname", "a b", "--", "true"],
            "host name \"a b\"",
        ),
        (&["run", "-w", "tmp", "--", "true"], "absolute path"),
        (&["run", "-e", "=x", "--", "true"], "-e \"=x\""),
        (
            &["run", "--env-file", "/nowhere/env", "--", "true"],
            "/nowhere/env",
        ),
        (&["run", "--no-such-flag", "--", "true"], "--no-such-flag"),
        (&["run"], "COMMAND"),
        (&["dctor"], "doctor"),
    ];
    for (args, expected) in cases {
        let output = home.run(args);
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        assert!(
            stderr(&output).contains(expected),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn wrong_use_is_told_in_json_when_json_was_asked_for() {
    let output = Home::new().run(&["run", "--json", "--cpus", "33", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    let json = json(&output);
    assert_eq!(json["exit_code"], 125);
    assert_eq!(json["error"]["code"], "usage");
    assert_eq!(
        json["error"]["message"],
        "invalid value '33' for '--cpus <N>': 33 CPUs: a sandbox has 1 to 32"
    );
}

#[test]
fn a_named_tier_that_cannot_be_had_is_an_error() {
    let output = Home::new().run(&["run", "--tier", "appcontainer", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("tier appcontainer cannot be had: needs Windows"));
}

#[test]
fn a_tier_below_the_floor_is_refused() {
    let output = Home::new().run(&[
        "run",
        "--tier",
        "local",
        "--min-isolation",
        "container",
        "--",
        "true",
    ]);
    assert_eq!(output.status.code(), Some(125));
    assert!(
        stderr(&output).contains("tier local gives isolation process"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_floor_in_the_configuration_is_not_lowered_by_a_flag() {
    let home = Home::new();
    home.configure("min_isolation = \"vm\"\n");
    let output = home.run(&[
        "run",
        "--tier",
        "local",
        "--min-isolation",
        "none",
        "--",
        "true",
    ]);
    assert_eq!(output.status.code(), Some(125));
    assert!(
        stderr(&output).contains("at least vm is demanded"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn unknown_configuration_keys_are_named() {
    let home = Home::new();
    home.configure("alow_local = true\n");
    let output = home.run(&["run", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(
        stderr(&output).contains("alow_local"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn without_an_image_nothing_runs_and_the_remedy_is_told() {
    let home = Home::new();
    let output = home.run(&["run", "--json", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    let json = json(&output);
    let microvm = &json["passed_over"][0];
    assert_eq!(microvm["tier"], "microvm");
    let known = [
        "no-hardware-virtualization",
        "kvm-missing",
        "kvm-permission",
        "program-missing",
        "no-image",
    ];
    assert!(
        known.iter().any(|code| microvm["code"] == *code),
        "{microvm}"
    );
    let text = microvm.to_string();
    assert!(
        microvm["code"] != "no-image" || text.contains("sovereign image build"),
        "{text}"
    );
}

#[test]
fn doctor_answers_for_every_tier_within_a_second() {
    let began = Instant::now();
    let output = Home::new().run(&["doctor", "--json"]);
    assert!(began.elapsed() < Duration::from_secs(1));
    let json = json(&output);
    let tiers: Vec<_> = json["tiers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["tier"])
        .collect();
    assert_eq!(
        tiers,
        ["microvm", "docker", "podman", "appcontainer", "local"]
    );
    let usable = json["usable"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(if usable { 0 } else { 1 }));
}

#[test]
fn a_device_that_opens_without_a_cpu_for_it_is_a_state_of_its_own() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let capable = cpu
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm");
    let opens = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    if capable || !opens {
        println!("skipped: this machine has no /dev/kvm that opens without VMX or SVM");
        return;
    }
    let json = json(&Home::new().run(&["doctor", "--json"]));
    assert_eq!(json["tiers"][0]["code"], "no-hardware-virtualization");
    let cause = json["tiers"][0]["cause"].as_str().unwrap();
    assert!(
        cause.contains("neither VMX nor SVM: a stock kernel will not boot here"),
        "{cause}"
    );
}

#[test]
fn an_empty_store_is_listed_and_its_images_are_missed_by_name() {
    let home = Home::new();
    let output = home.run(&["image", "ls", "--json"]);
    assert_eq!(json(&output), serde_json::json!([]));
    for args in [
        ["image", "inspect", "x"],
        ["image", "rm", "x"],
        ["image", "verify", "x"],
    ] {
        let output = home.run(&args);
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        assert!(
            stderr(&output).contains("no image `x`"),
            "{args:?}: {}",
            stderr(&output)
        );
    }
    assert_eq!(home.run(&["image", "prune"]).status.code(), Some(0));
}

#[test]
fn completions_and_manual_pages_are_generated() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&home.run(&["completions", shell]));
        assert!(script.contains("SOVEREIGN_COMPLETE"), "{shell}");
    }
    let page = stdout(&home.run(&["man"]));
    assert!(page.contains(".TH sovereign 1"), "{page}");
    let page = stdout(&home.run(&["man", "run"]));
    assert!(
        page.contains("min\\-isolation") && page.contains("EXIT STATUS"),
        "{page}"
    );
    let output = home.run(&["man", "rum"]);
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn colours_are_for_those_who_want_them() {
    let home = Home::new();
    let is_coloured = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = home.command(args);
        let output = command.envs(variables.iter().copied()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(!text.is_empty(), "{args:?}");
        text.contains(&0x1b)
    };
    for args in [&["doctor"][..], &["run", "--help"], &["dctor"]] {
        let with = |flag: &'static str| [args, &[flag]].concat();
        assert!(!is_coloured(args, &[("TERM", "xterm")]), "{args:?}");
        assert!(is_coloured(args, &[("CLICOLOR_FORCE", "1")]), "{args:?}");
        let both = [("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")];
        assert!(!is_coloured(args, &both), "{args:?}");
        assert!(is_coloured(&with("--color=always"), &both), "{args:?}");
        let force = [("CLICOLOR_FORCE", "1")];
        assert!(!is_coloured(&with("--color=never"), &force), "{args:?}");
    }
}

#[test]
fn what_was_nearly_right_is_guessed() {
    let home = Home::new();
    let images = home.0.path().join(".local/share/sovereign/images");
    std::fs::create_dir_all(&images).unwrap();
    std::fs::write(images.join("my-image.json"), "{}").unwrap();
    let cases: [(&[&str], &str); 9] = [
        (&["dctor"], "doctor"),
        (&["fs", "mkdri", "a", "b"], "mkdir"),
        (&["run", "--memroy", "1G", "true"], "--memory"),
        (&["run", "--tier", "micrvm", "true"], "microvm"),
        (&["kill", "-s", "SIGTREM", "x"], "did you mean TERM?"),
        (
            &["ls", "--filter", "status=runing"],
            "did you mean status=running?",
        ),
        (
            &["ls", "--filter", "tier=dokcer"],
            "did you mean tier=docker?",
        ),
        (
            &["image", "inspect", "my-imgae"],
            "did you mean `my-image`?",
        ),
        (&["image", "verify", "my-imgae"], "did you mean `my-image`?"),
    ];
    for (args, guess) in cases {
        let output = home.run(args);
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        assert!(
            stderr(&output).contains(guess),
            "{args:?}: {}",
            stderr(&output)
        );
        let output = home.run(&[&["--json"], args].concat());
        let error = &json(&output)["error"];
        assert!(error.to_string().contains(guess), "{args:?}: {error}");
    }
}

#[test]
fn help_and_versions_are_no_failures() {
    let home = Home::new();
    for args in [
        &["--help"][..],
        &["run", "--help"],
        &["--version"],
        &["version"],
        &["-h"],
    ] {
        let output = home.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty(), "{args:?}");
    }
    assert_eq!(
        json(&home.run(&["version", "--json"]))["version"],
        env!("CARGO_PKG_VERSION")
    );
}

#[test]
fn a_reader_that_leaves_ends_it_without_a_word() {
    let home = Home::new();
    let script = format!("{} man run | head -c 1", env!("CARGO_BIN_EXE_sovereign"));
    let mut shell = home.command(&[]);
    let arguments: [&OsStr; 2] = ["-c".as_ref(), script.as_ref()];
    let output = Command::new("/bin/sh")
        .args(arguments)
        .env("HOME", Path::new("/nonexistent"))
        .output()
        .unwrap();
    assert_eq!(output.stderr, b"");
    let mut child = shell
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    assert_eq!(
        status.signal(),
        Some(rustix::process::Signal::PIPE.as_raw())
    );
}
