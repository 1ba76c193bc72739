//! How commands end: exit codes, signals, time limits, and what cannot be run at all.

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use sovereign::{AgentError, ExecRequest};

use crate::subject::{Runs, Subject, read_line, request, sh, take, wait_until};
use crate::suite::{Suite, case};

pub(crate) fn add(suite: &mut Suite) {
    suite.add(
        "exit",
        [
            case("codes_are_the_commands_own", codes),
            case("signals_are_128_and_their_number", signals),
            case("missing_commands_are_127_and_named", missing_commands),
            case("files_that_cannot_run_are_126_and_named", not_executable),
            case("missing_interpreters_are_126_and_named", no_interpreter),
            case("timeout_is_124_in_time", timeout),
            case(
                "timeout_ends_grandchildren_that_hold_the_pipes",
                grandchildren,
            ),
            case("kill_after_lets_a_command_clean_up", clean_up),
            case("kill_after_ends_what_does_not", stubborn),
            case("signals_of_the_host_reach_the_command", signals_arrive),
            case("given_up_commands_end_with_their_tree", given_up),
        ],
    );
}

fn codes(subject: &Subject) -> Result<()> {
    for code in [0, 1, 2, 42, 77, 124, 125, 126, 127, 128, 137, 200, 254, 255] {
        let ended = subject.sh(&format!("exit {code}"))?;
        ended.ends_with(code)?;
        ensure!(
            ended.report.code == Some(code) && ended.report.signal.is_none(),
            "{ended}"
        );
    }
    Ok(())
}

fn signals(subject: &Subject) -> Result<()> {
    for signal in [1, 2, 3, 6, 9, 10, 11, 13, 14, 15, 24] {
        let ended = subject.sh(&format!("kill -{signal} $$; sleep 60"))?;
        ended.ends_with(128 + signal)?;
        ensure!(
            ended.report.signal == Some(signal) && !ended.report.timed_out,
            "{ended}"
        );
    }
    Ok(())
}

fn missing_commands(subject: &Subject) -> Result<()> {
    for missing in [
        "no-such-command",
        "/no/such/path",
        "./here-neither",
        "exit 3; echo $HOME",
    ] {
        let refusal = subject.refusal(request([missing, "argument"]))?;
        let told = matches!(&refusal, AgentError::NotFound(name) if name == missing);
        ensure!(told && refusal.exit_code() == 127, "{refusal:?}");
    }
    Ok(())
}

fn not_executable(subject: &Subject) -> Result<()> {
    for file in ["/etc/passwd", "/tmp"] {
        let refusal = subject.refusal(request([file]))?;
        let told = matches!(&refusal, AgentError::NotExecutable { program, .. } if program == file);
        ensure!(told && refusal.exit_code() == 126, "{refusal:?}");
    }
    Ok(())
}

fn no_interpreter(subject: &Subject) -> Result<()> {
    let script = "printf '#!/no/such/shell\\n' > script && chmod +x script && pwd";
    let folder = subject.sh(script)?.text();
    let refusal = subject.refusal(request([format!("{folder}/script")]))?;
    let text = refusal.to_string();
    ensure!(
        refusal.exit_code() == 126 && text.contains("/no/such/shell"),
        "{refusal:?}"
    );
    Ok(())
}

/// What a time limit may take beyond itself on a slow machine.
const GRACE: Duration = Duration::from_secs(5);

fn timeout(subject: &Subject) -> Result<()> {
    let limit = Duration::from_millis(300);
    let ended = subject.output(
        ExecRequest {
            timeout: Some(limit),
            ..sh("echo up; sleep 7001")
        },
        b"",
    )?;
    ended.ends_with(124)?;
    ensure!(ended.report.timed_out && ended.text() == "up", "{ended}");
    ensure!((limit..limit + GRACE).contains(&ended.wall), "{ended}");
    Ok(())
}

fn grandchildren(subject: &Subject) -> Result<()> {
    let script = "(trap '' TERM HUP; setsid sleep 7002) & (setsid sleep 7002 &); sleep 7002 & \
                  trap '' TERM; sleep 7002 & wait";
    let limit = Duration::from_millis(500);
    let ended = subject.output(
        ExecRequest {
            timeout: Some(limit),
            ..sh(script)
        },
        b"",
    )?;
    ended.ends_with(124)?;
    ensure!(ended.wall < limit + GRACE, "{ended}");
    is_gone(subject, "7002")
}

fn clean_up(subject: &Subject) -> Result<()> {
    let script = "trap 'echo cleaned; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let request = ExecRequest {
        timeout: Some(Duration::from_millis(500)),
        kill_after: Some(Duration::from_secs(60)),
        ..sh(script)
    };
    let ended = subject.output(request, b"")?;
    ended.ends_with(124)?;
    ensure!(ended.text() == "up\ncleaned", "{ended}");
    ensure!(ended.wall < Duration::from_secs(30), "{ended}");
    Ok(())
}

fn stubborn(subject: &Subject) -> Result<()> {
    let (timeout, kill_after) = (Duration::from_millis(300), Duration::from_millis(500));
    let script = "trap '' TERM; (trap '' TERM; sleep 7003) & sleep 7003; sleep 7003; sleep 7003";
    let request = ExecRequest {
        timeout: Some(timeout),
        kill_after: Some(kill_after),
        ..sh(script)
    };
    let ended = subject.output(request, b"")?;
    ended.ends_with(124)?;
    let expected = timeout + kill_after..timeout + kill_after + GRACE;
    ensure!(expected.contains(&ended.wall), "{ended}");
    is_gone(subject, "7003")
}

fn signals_arrive(subject: &Subject) -> Result<()> {
    for (signal, name) in [(2, "INT"), (15, "TERM"), (10, "USR1"), (1, "HUP")] {
        let script = format!("trap 'exit 42' {name}; echo up; while :; do sleep 0.05; done");
        let mut child = subject.spawn(&script)?;
        let mut stdout = take(&mut child.stdout)?;
        ensure!(read_line(&mut stdout)? == "up\n");
        child.signal(signal)?;
        let report = child.wait()?.report;
        ensure!(report.code == Some(42), "signal {name}: {report:?}");
    }
    let mut child = subject.spawn("echo up; exec sleep 7004")?;
    ensure!(read_line(&mut take(&mut child.stdout)?)? == "up\n");
    child.signal(2)?;
    let report = child.wait()?.report;
    ensure!(report.exit_code() == 130, "{report:?}");
    Ok(())
}

fn given_up(subject: &Subject) -> Result<()> {
    let script = "trap '' TERM HUP INT PIPE; (setsid sleep 7005 &); sleep 7005 & echo up; wait";
    let mut child = subject.spawn(script)?;
    take(&mut child.stdin)?.write_all(b"unread")?;
    ensure!(read_line(&mut take(&mut child.stdout)?)? == "up\n");
    drop(child);
    is_gone(subject, "7005")
}

/// That soon no `sleep` of this many seconds is left in the sandbox.
fn is_gone(subject: &Subject, seconds: &str) -> Result<()> {
    let script = format!(
        "for line in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $line; echo; done 2>/dev/null | \
         grep -c '^sleep {seconds} '"
    );
    wait_until("every process of the command ended", || {
        Ok(subject.sh(&script)?.text() == "0")
    })
}
