//! Standard input, output and error: live, clean, apart, half-closable, and bounded in memory.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sovereign::ExecRequest;
use sovereign_tests::host::resident_kib;

use crate::subject::{Runs, Subject, read_line, request, sh, take};
use crate::suite::{Suite, case};

const MIB: u64 = 1 << 20;

pub(crate) fn add(suite: &mut Suite) {
    suite.add(
        "streams",
        [
            case("output_and_input_are_live", live),
            case("output_and_error_stay_apart", apart),
            case("every_byte_passes_both_ways", every_byte),
            case("half_closed_input_ends_and_output_goes_on", half_close),
            case("input_is_empty_unless_given", empty_input),
            case("unread_input_holds_nothing_up", unread_input),
            case("output_beyond_a_limit_is_dropped_and_told", truncated),
            case("reader_that_stops_stops_the_command", back_pressure),
            case("stalled_output_holds_up_nothing_else", stalled),
            case("reader_that_goes_is_a_broken_pipe", broken_pipe),
        ],
    );
}

fn live(subject: &Subject) -> Result<()> {
    let script = "echo first; read line; echo \"got $line\"; read line; echo \"then $line\" >&2";
    let mut child = subject.spawn(script)?;
    let (mut stdin, mut stdout) = (take(&mut child.stdin)?, take(&mut child.stdout)?);
    let mut stderr = take(&mut child.stderr)?;
    ensure!(read_line(&mut stdout)? == "first\n");
    ensure!(
        !child.is_finished(),
        "the output came when the command had ended"
    );
    stdin.write_all(b"one\n")?;
    ensure!(read_line(&mut stdout)? == "got one\n");
    stdin.write_all(b"two\n")?;
    ensure!(read_line(&mut stderr)? == "then two\n");
    ensure!(child.wait()?.report.code == Some(0));
    Ok(())
}

fn apart(subject: &Subject) -> Result<()> {
    let ended = subject.sh("echo out; echo err >&2; echo out; echo err >&2")?;
    ended.ends_with(0)?;
    ensure!(
        ended.stdout == b"out\nout\n" && ended.stderr == b"err\nerr\n",
        "{ended}"
    );
    Ok(())
}

fn every_byte(subject: &Subject) -> Result<()> {
    // An odd length, so that no buffer ends with it, and more than any window of credit.
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(1_000_003).collect();
    let script = "tee /dev/stderr";
    let ended = subject.output(
        ExecRequest {
            stdin: true,
            ..sh(script)
        },
        &bytes,
    )?;
    ended.ends_with(0)?;
    ensure!(
        ended.stdout == bytes,
        "output: {} bytes",
        ended.stdout.len()
    );
    ensure!(ended.stderr == bytes, "error: {} bytes", ended.stderr.len());
    Ok(())
}

fn half_close(subject: &Subject) -> Result<()> {
    let mut child = subject.spawn("cat; echo after; sleep 0.2; echo later")?;
    let mut stdout = take(&mut child.stdout)?;
    let mut stdin = take(&mut child.stdin)?;
    stdin.write_all(b"given\n")?;
    ensure!(read_line(&mut stdout)? == "given\n");
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest)?;
    ensure!(rest == "after\nlater\n", "{rest:?}");
    Ok(())
}

fn empty_input(subject: &Subject) -> Result<()> {
    subject
        .sh("cat; readlink /proc/self/fd/0")?
        .says("/dev/null")?;
    let given = ExecRequest {
        stdin: true,
        ..sh("cat; echo end")
    };
    subject.output(given, b"")?.says("end")
}

fn unread_input(subject: &Subject) -> Result<()> {
    let input = vec![b'x'; 8 << 20];
    let request = ExecRequest {
        stdin: true,
        ..request(["head", "-c", "5"])
    };
    subject.output(request, &input)?.says("xxxxx")
}

fn truncated(subject: &Subject) -> Result<()> {
    let request = ExecRequest {
        max_output: Some(10),
        ..sh("head -c 100000 /dev/zero | tr '\\0' x; echo 12345 >&2")
    };
    let ended = subject.output(request, b"")?;
    ended.ends_with(0)?;
    ensure!(ended.report.truncated, "{ended}");
    ensure!(
        ended.stdout == [b'x'; 10] && ended.stderr == b"12345\n",
        "{ended}"
    );
    Ok(())
}

/// What may be on its way: pipes at both ends, a window of credit, frames, sockets.
const ON_ITS_WAY: u64 = 4 * MIB;

fn back_pressure(subject: &Subject) -> Result<()> {
    const BLOCK: u64 = 64 << 10;
    let before = resident_kib(std::process::id())?;
    let script = format!("i=0; while printf %{BLOCK}s; do i=$((i+1)); echo $i >&2; done");
    let mut child = subject.spawn(&script)?;
    let _unread = take(&mut child.stdout)?;
    let mut stderr = take(&mut child.stderr)?;
    let mut written = 0;
    // Blocks come until the way is full, and then no more.
    while becomes_readable(&stderr, Duration::from_secs(2))? {
        written = read_line(&mut stderr)?.trim().parse::<u64>()? * BLOCK;
        ensure!(
            written <= ON_ITS_WAY,
            "{written} bytes were taken that nobody reads"
        );
    }
    ensure!(
        written > 0 && !child.is_finished(),
        "the command ended after {written} bytes"
    );
    let grown = resident_kib(std::process::id())?.saturating_sub(before);
    ensure!(
        grown * 1024 <= 2 * ON_ITS_WAY,
        "we have grown by {grown} KiB"
    );
    Ok(())
}

fn stalled(subject: &Subject) -> Result<()> {
    let script = "trap 'echo signal >&2' USR1; cat /dev/zero & echo error >&2; \
                  while ! wait; do :; done";
    let mut child = subject.spawn(script)?;
    let unread = take(&mut child.stdout)?;
    let mut stderr = take(&mut child.stderr)?;
    ensure!(read_line(&mut stderr)? == "error\n");
    ensure!(
        becomes_readable(&unread, Duration::from_secs(30))?,
        "no output at all"
    );
    let began = Instant::now();
    subject.run(["echo", "other"])?.says("other")?;
    child.signal(10)?;
    // The signal reaches the group, and so ends `cat` too.
    ensure!(read_line(&mut stderr)? == "signal\n");
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(20), "held up for {took:?}");
    Ok(())
}

fn broken_pipe(subject: &Subject) -> Result<()> {
    let mut child = subject.spawn("exec cat /dev/zero")?;
    let mut stdout = take(&mut child.stdout)?;
    stdout.read_exact(&mut [0; 1000])?;
    drop(stdout);
    let report = child.wait().context("the command did not notice")?.report;
    ensure!(report.signal == Some(13), "{report:?}");
    Ok(())
}

/// Whether there is something to read, at the latest after this long.
fn becomes_readable(end: &impl AsFd, patience: Duration) -> Result<bool> {
    let mut ends = [PollFd::new(end, PollFlags::IN)];
    Ok(poll(&mut ends, Some(&Timespec::try_from(patience)?))? > 0)
}
