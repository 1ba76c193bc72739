//! What a command finds: arguments, environment, folder, user, tools, files, clock.

use anyhow::ensure;
use sovereign_tests::call::Sovereign;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::suite::{Outcome, PASSED, Suite};

pub(crate) fn add(suite: &mut Suite) {
    suite.guest(
        "command",
        &[
            ("python_says_hello", python_says_hello),
            ("arguments_arrive_unchanged", arguments_arrive_unchanged),
            ("arguments_need_not_be_utf8", arguments_need_not_be_utf8),
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
            ("the_images_tools_are_there", the_images_tools_are_there),
            ("host_name_can_be_set", host_name_can_be_set),
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

fn the_images_tools_are_there(sovereign: &Sovereign) -> Outcome {
    let script = "python3 -c 'import sys, ssl, json, sqlite3; assert sys.version_info >= (3, 11)' \
                  && curl --version >/dev/null && tar --version >/dev/null && unzip -v >/dev/null \
                  && ps -e >/dev/null && echo all";
    let output = sovereign.run(["--", "sh", "-c", script]).output()?;
    ensure!(output.code() == Some(0), "{output}");
    ensure!(output.text() == "all", "{output}");
    PASSED
}

fn host_name_can_be_set(sovereign: &Sovereign) -> Outcome {
    let output = sovereign
        .run(["--hostname", "box-7", "--", "uname", "-n"])
        .output()?;
    ensure!(output.text() == "box-7", "{output}");
    PASSED
}
