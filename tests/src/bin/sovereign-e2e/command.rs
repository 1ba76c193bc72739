//! What a command finds: arguments, environment, folder, user, tools, files, clock.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use sovereign_tests::call::Sovereign;

use crate::suite::{Outcome, PASSED, Suite};

pub(crate) fn add(suite: &mut Suite) {
    suite.guest(
        "command",
        &[
            ("python_says_hello", python_says_hello),
            ("arguments_arrive_unchanged", arguments_arrive_unchanged),
            ("arguments_need_not_be_utf8", arguments_need_not_be_utf8),
            ("no_shell_is_put_between", no_shell_is_put_between),
            (
                "environment_is_what_was_set_and_no_more",
                environment_is_what_was_set,
            ),
            (
                "runs_in_the_folder_it_was_given",
                runs_in_the_folder_it_was_given,
            ),
            (
                "missing_folder_is_125_and_named",
                missing_folder_is_125_and_named,
            ),
            ("runs_as_the_images_user", runs_as_the_images_user),
            ("runs_as_another_user", runs_as_another_user),
            (
                "unknown_user_is_125_and_named",
                unknown_user_is_125_and_named,
            ),
            ("the_images_tools_are_there", the_images_tools_are_there),
            ("writes_stay_in_their_sandbox", writes_stay_in_their_sandbox),
            ("writes_have_a_limit", writes_have_a_limit),
            ("clock_is_the_hosts", clock_is_the_hosts),
            (
                "two_sandboxes_draw_different_random_numbers",
                random_numbers_differ,
            ),
            ("orphans_are_reaped", orphans_are_reaped),
            ("host_name_can_be_set", host_name_can_be_set),
            ("loopback_is_up", loopback_is_up),
        ],
    );
}

fn python_says_hello(sovereign: &Sovereign) -> Outcome {
    let program = "print('hello from a sandbox')";
    let output = sovereign.run(["--", "python3", "-c", program]).output()?;
    ensure!(output.code() == Some(0), "{output}");
    ensure!(output.stdout == b"hello from a sandbox\n", "{output}");
    PASSED
}

fn arguments_arrive_unchanged(sovereign: &Sovereign) -> Outcome {
    let args = [
        "", " ", "a b", "$HOME", "`id`", "'", "\"", "\\", "-x", "--", "*", "ä", "a\nb",
    ];
    let all = ["--", "printf", "%s|"].into_iter().chain(args);
    let output = sovereign.run(all).output()?;
    ensure!(output.code() == Some(0), "{output}");
    ensure!(
        output.stdout == format!("{}|", args.join("|")).as_bytes(),
        "{output}"
    );
    PASSED
}

fn arguments_need_not_be_utf8(sovereign: &Sovereign) -> Outcome {
    let odd = OsStr::from_bytes(b"\xff\xfe\x80");
    let args: [&OsStr; 4] = ["--".as_ref(), "printf".as_ref(), "%s".as_ref(), odd];
    let output = sovereign.run(args).output()?;
    ensure!(output.code() == Some(0), "{output}");
    ensure!(output.stdout == odd.as_bytes(), "{output}");
    PASSED
}

fn no_shell_is_put_between(sovereign: &Sovereign) -> Outcome {
    let output = sovereign.run(["--", "echo $HOME; echo two"]).output()?;
    ensure!(output.code() == Some(127), "{output}");
    PASSED
}

fn environment_is_what_was_set(sovereign: &Sovereign) -> Outcome {
    let mut odd = OsString::from("ODD=");
    odd.push(OsStr::from_bytes(b"a b=c\xff"));
    let args: Vec<OsString> = ["-e", "GIVEN=value", "-e", "TAKEN", "-e"]
        .map(OsString::from)
        .into_iter()
        .chain([odd])
        .chain(["--", "env", "-0"].map(OsString::from))
        .collect();
    let call = sovereign
        .run(args)
        .env("TAKEN", "from the host")
        .env("SECRET", "stays here");
    let output = call.output()?;
    ensure!(output.code() == Some(0), "{output}");
    let has = |pair: &[u8]| {
        output
            .stdout
            .split(|byte| *byte == 0)
            .any(|entry| entry == pair)
    };
    ensure!(
        has(b"GIVEN=value") && has(b"TAKEN=from the host"),
        "{output}"
    );
    ensure!(has(b"ODD=a b=c\xff"), "{output}");
    ensure!(!output.text().contains("SECRET"), "{output}");
    ensure!(
        output.text().contains("PATH=") && output.text().contains("HOME="),
        "{output}"
    );
    PASSED
}

fn runs_in_the_folder_it_was_given(sovereign: &Sovereign) -> Outcome {
    let output = sovereign.run(["-w", "/usr/share", "--", "pwd"]).output()?;
    ensure!(output.code() == Some(0), "{output}");
    ensure!(output.text() == "/usr/share", "{output}");
    PASSED
}

fn missing_folder_is_125_and_named(sovereign: &Sovereign) -> Outcome {
    let output = sovereign
        .run(["-w", "/no/such/folder", "--", "pwd"])
        .output()?;
    ensure!(output.code() == Some(125), "{output}");
    ensure!(output.errors().contains("/no/such/folder"), "{output}");
    PASSED
}

fn runs_as_the_images_user(sovereign: &Sovereign) -> Outcome {
    let output = sovereign
        .run(["--", "sh", "-c", "id -u; id -un; pwd"])
        .output()?;
    ensure!(output.code() == Some(0), "{output}");
    ensure!(output.text() == "1000\nsandbox\n/home/sandbox", "{output}");
    PASSED
}

fn runs_as_another_user(sovereign: &Sovereign) -> Outcome {
    for (user, expected) in [
        ("root", "0:0"),
        ("1234:4321", "1234:4321"),
        ("nobody", "65534:65534"),
    ] {
        let script = "echo $(id -u):$(id -g)";
        let output = sovereign
            .run(["-u", user, "--", "sh", "-c", script])
            .output()?;
        ensure!(output.code() == Some(0), "{output}");
        ensure!(output.text() == expected, "{output}");
    }
    PASSED
}

fn unknown_user_is_125_and_named(sovereign: &Sovereign) -> Outcome {
    let output = sovereign
        .run(["-u", "nobody-knows", "--", "true"])
        .output()?;
    ensure!(output.code() == Some(125), "{output}");
    ensure!(output.errors().contains("nobody-knows"), "{output}");
    PASSED
}

fn the_images_tools_are_there(sovereign: &Sovereign) -> Outcome {
    let script = "python3 -c 'import sys, ssl, json, sqlite3; assert sys.version_info >= (3, 11)' \
                  && curl --version >/dev/null && tar --version >/dev/null && unzip -v >/dev/null \
                  && ps -e >/dev/null && echo all";
    let output = sovereign.run(["--", "sh", "-c", script]).output()?;
    ensure!(output.code() == Some(0), "{output}");
    ensure!(output.text() == "all", "{output}");
    PASSED
}

fn writes_stay_in_their_sandbox(sovereign: &Sovereign) -> Outcome {
    let script = "ls /marker 2>/dev/null; echo new >/marker && rm /etc/hostname && cat /marker";
    for _ in 0..2 {
        let output = sovereign
            .run(["-u", "root", "--", "sh", "-c", script])
            .output()?;
        ensure!(output.code() == Some(0), "{output}");
        ensure!(output.text() == "new", "{output}");
    }
    PASSED
}

fn writes_have_a_limit(sovereign: &Sovereign) -> Outcome {
    let script = "dd if=/dev/zero of=big bs=1M count=64 2>&1";
    let output = sovereign
        .run(["--overlay-size", "16M", "--", "sh", "-c", script])
        .output()?;
    ensure!(output.code() == Some(1), "{output}");
    ensure!(output.text().contains("No space left"), "{output}");
    PASSED
}

fn clock_is_the_hosts(sovereign: &Sovereign) -> Outcome {
    let output = sovereign.run(["--", "date", "+%s"]).output()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let theirs: u64 = output.text().parse().with_context(|| output.to_string())?;
    ensure!(
        now.abs_diff(theirs) <= 10,
        "the guest's clock says {theirs}, ours {now}"
    );
    PASSED
}

fn random_numbers_differ(sovereign: &Sovereign) -> Outcome {
    let draw = || {
        sovereign
            .run(["--", "od", "-An", "-N16", "-tx1", "/dev/urandom"])
            .output()
    };
    let (one, two) = (draw()?, draw()?);
    ensure!(
        one.code() == Some(0) && two.code() == Some(0),
        "{one}; {two}"
    );
    ensure!(one.text().len() >= 47, "{one}");
    ensure!(one.text() != two.text(), "{one}");
    PASSED
}

fn orphans_are_reaped(sovereign: &Sovereign) -> Outcome {
    let script = "for i in $(seq 50); do (true & ) ; done; sleep 0.5; ps -eo stat= | grep -c Z";
    let output = sovereign.run(["--", "sh", "-c", script]).output()?;
    ensure!(output.text() == "0", "zombies are left: {output}");
    PASSED
}

fn host_name_can_be_set(sovereign: &Sovereign) -> Outcome {
    let output = sovereign
        .run(["--hostname", "box-7", "--", "uname", "-n"])
        .output()?;
    ensure!(output.text() == "box-7", "{output}");
    PASSED
}

fn loopback_is_up(sovereign: &Sovereign) -> Outcome {
    let program = "import socket\n\
                   server = socket.create_server(('127.0.0.1', 0))\n\
                   client = socket.create_connection(server.getsockname())\n\
                   peer, _ = server.accept()\n\
                   client.sendall(b'ping'); print(peer.recv(4).decode())\n";
    let output = sovereign.run(["--", "python3", "-c", program]).output()?;
    ensure!(output.text() == "ping", "{output}");
    PASSED
}
