//! Commands that cannot be run, and why.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use agent_client::ClientError;
use agent_protocol::limits::{Resource, ResourceLimit};
use agent_protocol::message::{AgentError, ExecRequest};

use crate::agent::{Agent, request, shell};

fn refusal(agent: &Agent, request: ExecRequest) -> AgentError {
    match agent.run(request) {
        Err(ClientError::Refused(error)) => error,
        other => panic!("not refused: {other:?}"),
    }
}

fn file(folder: &Path, name: &str, content: &[u8], mode: u32) -> String {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn command_that_is_not_there_is_127() {
    let agent = Agent::start();
    for program in ["no-such-command", "/no/such/command", "/etc/passwd/x"] {
        let error = refusal(&agent, request(&[program]));
        assert_eq!(error.to_string(), format!("command not found: {program}"));
        assert_eq!(error.exit_code(), 127);
    }
}

#[test]
fn command_that_cannot_be_executed_is_126() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        (
            file(folder.path(), "plain", b"#!/bin/sh\n", 0o644),
            "Permission denied",
        ),
        ("/usr".to_owned(), "it is a directory"),
        (file(folder.path(), "empty", b"", 0o755), "it is empty"),
        (
            file(folder.path(), "text", b"echo hello\n", 0o755),
            "it is text whose first line is not #! and an interpreter",
        ),
        (
            file(folder.path(), "binary", &[1, 2, 3, 0xff], 0o755),
            "Exec format error",
        ),
        (
            file(
                folder.path(),
                "alien",
                b"\x7fELF\x01\x02\x01 and so on",
                0o755,
            ),
            "it is a program for another kind of machine",
        ),
        (
            file(folder.path(), "script", b"#!/no/such/python3 -u\n", 0o755),
            "its interpreter /no/such/python3 does not exist",
        ),
        (
            file(folder.path(), "windows", b"#!/bin/sh\r\n", 0o755),
            "its interpreter /bin/sh\r does not exist",
        ),
    ];
    for (program, reason) in cases {
        let error = refusal(&agent, request(&[&program]));
        assert_eq!(
            error.to_string(),
            format!("cannot execute {program}: {reason}")
        );
        assert_eq!(error.exit_code(), 126);
    }
}

#[test]
fn file_of_another_kind_in_the_path_does_not_hide_the_command() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "true", b"", 0o644);
    std::fs::create_dir(folder.path().join("env")).unwrap();
    for program in ["true", "env"] {
        let mut request = request(&[program]);
        let path = format!("/no/such:{}:/usr/bin:/bin", folder.path().display());
        request.env = vec![(b"PATH".to_vec().into(), path.into_bytes().into())];
        assert_eq!(
            agent.run(request).unwrap().report.code,
            Some(0),
            "{program}"
        );
    }
}

#[test]
fn command_found_in_the_path_but_not_executable_is_126() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "tool", b"#!/bin/sh\n", 0o644);
    let mut request = request(&["tool"]);
    let search = format!("{}:/usr/bin", folder.path().display());
    request.env = vec![(b"PATH".to_vec().into(), search.into_bytes().into())];
    let error = refusal(&agent, request);
    assert_eq!(
        error.to_string(),
        format!("cannot execute {path}: Permission denied")
    );
}

#[test]
fn working_directory_that_is_not_there_is_named() {
    let agent = Agent::start();
    for (directory, reason) in [
        ("/no/such/folder", "No such file or directory"),
        ("/etc/passwd", "Not a directory"),
    ] {
        let mut request = request(&["true"]);
        request.cwd = Some(directory.as_bytes().to_vec().into());
        let error = refusal(&agent, request);
        assert_eq!(
            error.to_string(),
            format!("working directory {directory}: {reason}")
        );
        assert_eq!(error.exit_code(), 125);
    }
}

#[test]
fn user_that_is_not_there_is_named() {
    let agent = Agent::start();
    for (user, named) in [
        ("no-such-user", "user \"no-such-user\""),
        ("0:nobodies", "group \"nobodies\""),
    ] {
        let request = ExecRequest {
            user: Some(user.to_owned()),
            ..request(&["true"])
        };
        let error = refusal(&agent, request);
        assert_eq!(error.to_string(), format!("no such user or group: {named}"));
        assert_eq!(error.exit_code(), 125);
    }
}

#[test]
fn what_is_too_large_is_told_with_numbers() {
    let agent = Agent::start();
    let long = "x".repeat(200_000);
    let error = refusal(&agent, request(&["true", &long]));
    assert_eq!(
        error.to_string(),
        "arguments and environment are too large: argument 1 has 200001 bytes, and one may have \
         131072"
    );
    let mut variable = request(&["true"]);
    variable.env = vec![(b"BIG".to_vec().into(), long.into_bytes().into())];
    let error = refusal(&agent, variable);
    assert!(
        error.to_string().contains("variable BIG has 200005 bytes"),
        "{error}"
    );
    let many = "y".repeat(100_000);
    let mut argv = vec!["true"];
    argv.extend(std::iter::repeat_n(many.as_str(), 39));
    let error = refusal(&agent, request(&argv));
    assert!(error.to_string().contains("bytes in 4"), "{error}");
    assert_eq!(error.exit_code(), 125);
}

#[test]
fn what_does_not_fit_in_a_frame_is_refused_by_the_client() {
    let agent = Agent::start();
    let long = "x".repeat(5 << 20);
    let error = agent.session().exec(request(&["true", &long])).unwrap_err();
    assert!(
        matches!(error, ClientError::RequestTooLarge { .. }),
        "{error}"
    );
}

#[test]
fn command_that_cannot_be_run_costs_no_input() {
    let agent = Agent::start();
    let request = ExecRequest {
        stdin: true,
        ..request(&["no-such-command"])
    };
    let mut child = agent.exec(request).spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"precious").unwrap();
    assert!(matches!(
        child.wait(),
        Err(ClientError::Refused(AgentError::NotFound(_)))
    ));
}

#[test]
fn limits_that_cannot_be_had_are_named() {
    let agent = Agent::start();
    let limit = |resource, soft, hard| ResourceLimit {
        resource,
        soft,
        hard,
    };
    let above = ExecRequest {
        limits: vec![limit(Resource::Nofile, Some(1 << 40), Some(1 << 40))],
        ..request(&["true"])
    };
    let error = refusal(&agent, above);
    assert_eq!(error.exit_code(), 125);
    let text = error.to_string();
    assert!(
        text.starts_with("cannot limit the command to nofile=1099511627776: the "),
        "{text}"
    );
    let upside_down = ExecRequest {
        limits: vec![limit(Resource::Cpu, Some(9), Some(3))],
        ..request(&["true"])
    };
    let text = refusal(&agent, upside_down).to_string();
    assert_eq!(
        text,
        "cannot limit the command to cpu=9:3: the soft limit is above the hard one"
    );
    let counted = ExecRequest {
        processes: Some(3),
        ..request(&["true"])
    };
    let text = refusal(&agent, counted).to_string();
    assert!(
        text.contains("3 processes: only in a virtual machine"),
        "{text}"
    );
}

#[test]
fn limits_are_the_commands_and_nobody_elses() {
    let agent = Agent::start();
    let limits = [(Resource::Nofile, 64, 65), (Resource::Core, 0, 0)];
    let limits = limits.map(|(resource, soft, hard)| ResourceLimit {
        resource,
        soft: Some(soft),
        hard: Some(hard),
    });
    let own = ExecRequest {
        limits: limits.to_vec(),
        ..shell("ulimit -Sn; ulimit -Hn; ulimit -c")
    };
    assert_eq!(agent.run(own).unwrap().stdout, b"64\n65\n0\n");
    assert_ne!(agent.shell("ulimit -Sn").stdout, b"64\n");
}
