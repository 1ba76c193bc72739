//! What a command finds: arguments, environment, folder, user, clock, randomness.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sovereign::{AgentError, ClientError, ExecError, ExecRequest};
use sovereign_tests::arguments::arguments;

use crate::facts::Need;
use crate::subject::{Runs, Subject, request, sh, sh_as};
use crate::suite::{Suite, case, needing};

pub(crate) fn add(suite: &mut Suite) {
    suite.add(
        "command",
        [
            case("arguments_arrive_unchanged", arguments_arrive),
            case("oversize_arguments_are_told", oversize),
            case("impossible_requests_are_told", impossible),
            case("environment_is_what_was_said_and_no_more", environment),
            case("programs_are_looked_up_in_its_path", path),
            case("folder_is_the_one_that_was_given", folder),
            case("folders_that_are_none_are_told", no_folder),
            needing("default_user_is_sandbox", &[Need::OwnAccount], default_user),
            needing("other_users_can_be_named", &[Need::OtherUsers], other_users),
            case("own_user_can_be_named", own_user),
            case("unknown_users_are_told", unknown_user),
            needing("host_name_is_its_own", &[Need::HostName], host_name),
            case("clock_is_the_hosts", clock),
            case("random_numbers_differ", random_numbers),
        ],
    );
}

fn arguments_arrive(subject: &Subject) -> Result<()> {
    let config = Config {
        cases: 24,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&arguments(), |arguments| {
            let result = arrive(subject, arguments);
            result.map_err(|error| TestCaseError::fail(format!("{error:#}")))
        })
        .map_err(|error| anyhow!("{error}"))
}

fn arrive(subject: &Subject, arguments: Vec<Vec<u8>>) -> Result<()> {
    let expected: Vec<u8> = arguments.join(&0).into_iter().chain([0]).collect();
    let start = [b"printf".to_vec(), b"%s\\0".to_vec()];
    let ended = subject.run(start.into_iter().chain(arguments))?;
    ensure!(
        ended.stdout == expected,
        "{:?} became {ended}",
        expected.escape_ascii().to_string()
    );
    Ok(())
}

fn oversize(subject: &Subject) -> Result<()> {
    // Longer than the longest single argument; and more than an exec takes, whatever the stack's size.
    let one = vec!["true".to_owned(), "x".repeat(200 << 10)];
    let many: Vec<_> = ["true".to_owned()]
        .into_iter()
        .chain((0..80).map(|_| "x".repeat(100 << 10)))
        .collect();
    for argv in [one, many] {
        let size: usize = argv.iter().map(String::len).sum();
        is_too_large(subject, request(argv))
            .with_context(|| format!("{size} bytes of arguments"))?;
    }
    let variable =
        |(name, value): (String, String)| (name.into_bytes().into(), value.into_bytes().into());
    let env = vec![variable(("BIG".to_owned(), "x".repeat(200 << 10)))];
    is_too_large(subject, ExecRequest { env, ..sh("true") }).context("an environment")?;
    subject.run(["echo", "next"])?.says("next")
}

/// That the request is refused for its size, by the agent or before it is sent.
fn is_too_large(subject: &Subject, request: ExecRequest) -> Result<()> {
    let exec = match subject.exec(request) {
        Err(ExecError::Client(ClientError::RequestTooLarge { .. })) => return Ok(()),
        exec => exec?,
    };
    match exec.output(b"", 1024) {
        Err(ClientError::Refused(AgentError::TooLarge(what))) if !what.is_empty() => Ok(()),
        other => Err(anyhow!("not told: {other:?}")),
    }
}

fn impossible(subject: &Subject) -> Result<()> {
    let nothing = subject.refusal(request(Vec::<Vec<u8>>::new()))?;
    let empty = subject.refusal(request([""]))?;
    let nul = subject.refusal(request([&b"echo"[..], b"a\0b"]))?;
    let name = ExecRequest {
        env: vec![(b"A=B".to_vec().into(), b"".to_vec().into())],
        ..sh("true")
    };
    let name = subject.refusal(name)?;
    for refusal in [nothing, empty, nul, name] {
        let told = matches!(&refusal, AgentError::BadRequest(_)) && refusal.exit_code() == 125;
        ensure!(told, "{refusal:?}");
    }
    Ok(())
}

fn environment(subject: &Subject) -> Result<()> {
    let pair = |name: &[u8], value: &[u8]| (name.to_vec().into(), value.to_vec().into());
    let env = vec![
        pair(b"GIVEN", b"a b=c\n\xff"),
        pair(b"EMPTY", b""),
        pair(b"HOME", b"/elsewhere"),
    ];
    let ended = subject.output(
        ExecRequest {
            env,
            ..request(["env", "-0"])
        },
        b"",
    )?;
    ended.ends_with(0)?;
    let mut found: Vec<_> = ended.stdout.split(|byte| *byte == 0).collect();
    found.sort_unstable();
    // Where commands run on the host's own Python, that is how it finds the package of the sandbox.
    if subject.tier_name() == "local" {
        found.retain(|pair| !pair.starts_with(b"PYTHONPATH="));
    }
    let names = found
        .iter()
        .map(|pair| pair.split(|byte| *byte == b'=').next().unwrap_or_default());
    let expected: [&[u8]; 7] = [
        b"", b"EMPTY", b"GIVEN", b"HOME", b"LOGNAME", b"PATH", b"USER",
    ];
    ensure!(names.eq(expected), "{ended}");
    let has = |pair: &[u8]| found.contains(&pair);
    let given = has(b"GIVEN=a b=c\n\xff") && has(b"EMPTY=") && has(b"HOME=/elsewhere");
    ensure!(given, "{ended}");
    Ok(())
}

fn path(subject: &Subject) -> Result<()> {
    let script = "mkdir -p own && printf '#!/bin/sh\\necho found\\n' > own/tool-7 && \
                  chmod +x own/tool-7 && cd own && pwd";
    let folder = subject.sh(script)?.text();
    let env = |path: String| vec![(b"PATH".to_vec().into(), path.into_bytes().into())];
    let found = ExecRequest {
        env: env(format!("/nowhere:{folder}:/bin")),
        ..request(["tool-7"])
    };
    subject.output(found, b"")?.says("found")?;
    let missing = ExecRequest {
        env: env("/nowhere".to_owned()),
        ..request(["sh"])
    };
    let refusal = subject.refusal(missing)?;
    ensure!(
        matches!(&refusal, AgentError::NotFound(name) if name == "sh"),
        "{refusal:?}"
    );
    Ok(())
}

fn in_folder(folder: &[u8], script: &str) -> ExecRequest {
    ExecRequest {
        cwd: Some(folder.to_vec().into()),
        ..sh(script)
    }
}

fn folder(subject: &Subject) -> Result<()> {
    subject
        .output(in_folder(b"/usr", "pwd"), b"")?
        .says("/usr")?;
    let odd = subject
        .sh("mkdir -p \"$(printf 'a b\\377')\" && pwd")?
        .text();
    let path = [odd.as_bytes(), b"/a b\xff"].concat();
    let ended = subject.output(in_folder(&path, "pwd"), b"")?;
    ensure!(ended.stdout == [&path[..], b"\n"].concat(), "{ended}");
    subject
        .sh("test \"$PWD\" = \"$HOME\" && echo home")?
        .says("home")
}

fn no_folder(subject: &Subject) -> Result<()> {
    for folder in ["/no/such/folder", "/etc/passwd"] {
        let refusal = subject.refusal(in_folder(folder.as_bytes(), "pwd"))?;
        let told = matches!(&refusal, AgentError::BadDirectory { path, .. } if path == folder);
        ensure!(told && refusal.exit_code() == 125, "{refusal:?}");
    }
    Ok(())
}

fn default_user(subject: &Subject) -> Result<()> {
    let script = "id -u; id -g; id -un; echo $HOME; echo $USER; pwd";
    let expected = "1000\n1000\nsandbox\n/home/sandbox\nsandbox\n/home/sandbox";
    subject.sh(script)?.says(expected)
}

fn other_users(subject: &Subject) -> Result<()> {
    let ids = "echo $(id -u):$(id -g):$(id -G)";
    for (user, expected) in [
        ("root", "0:0:0"),
        ("0", "0:0:0"),
        ("sandbox", "1000:1000:1000"),
        ("nobody", "65534:65534:65534"),
        ("1000:65534", "1000:65534:65534"),
        ("nobody:sandbox", "65534:1000:1000"),
    ] {
        let ended = subject.output(sh_as(user, ids), b"")?;
        ended
            .says(expected)
            .with_context(|| format!("user {user}"))?;
    }
    Ok(())
}

fn own_user(subject: &Subject) -> Result<()> {
    let ids = subject.sh("echo $(id -u):$(id -g)")?.text();
    let user = ids.split(':').next().unwrap_or_default();
    subject
        .output(sh_as(user, "echo $(id -u):$(id -g)"), b"")?
        .says(&ids)?;
    subject
        .output(sh_as(&ids, "echo $(id -u):$(id -g)"), b"")?
        .says(&ids)
}

fn unknown_user(subject: &Subject) -> Result<()> {
    // Its own user is one that every tier lets it be.
    let own = subject.sh("id -u")?.text();
    for user in ["nobody-knows", &format!("{own}:no-such-group")] {
        let refusal = subject.refusal(sh_as(user, "true"))?;
        let told = matches!(&refusal, AgentError::BadUser(what) if what.contains("no"));
        ensure!(told && refusal.exit_code() == 125, "{refusal:?}");
    }
    Ok(())
}

fn host_name(subject: &Subject) -> Result<()> {
    subject.run(["uname", "-n"])?.says("sandbox")?;
    let own = subject.start(|spec| spec.hostname = Some("box-7".to_owned()))?;
    own.run(["uname", "-n"])?.says("box-7")
}

fn clock(subject: &Subject) -> Result<()> {
    let theirs = subject.run(["date", "+%s"])?.number()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    ensure!(
        now.abs_diff(theirs) <= 5,
        "their clock says {theirs}, ours {now}"
    );
    Ok(())
}

fn random_numbers(subject: &Subject) -> Result<()> {
    let draw = ["od", "-An", "-N16", "-tx1", "/dev/urandom"];
    let mut drawn = vec![subject.run(draw)?.text(), subject.run(draw)?.text()];
    drawn.push(subject.start(|_| ())?.run(draw)?.text());
    drawn.sort();
    drawn.dedup();
    ensure!(
        drawn.len() == 3 && drawn.iter().all(|bytes| bytes.len() == 47),
        "{drawn:?}"
    );
    Ok(())
}
