//! Data, both ways.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use agent_client::{InputSource, OutputTarget, PumpIo};
use agent_protocol::message::ExecRequest;
use sha2::{Digest, Sha256};

use crate::agent::{Agent, eventually, request, shell};

fn with_stdin(request: ExecRequest) -> ExecRequest {
    ExecRequest {
        stdin: true,
        ..request
    }
}

#[test]
fn outputs_stay_apart() {
    let agent = Agent::start();
    let output = agent.shell("echo out; echo err >&2");
    assert_eq!(
        (output.stdout, output.stderr),
        (b"out\n".to_vec(), b"err\n".to_vec())
    );
}

#[test]
fn without_stdin_the_command_reads_the_end() {
    let agent = Agent::start();
    let output = agent
        .exec(request(&["cat"]))
        .output(b"never sent", 100)
        .unwrap();
    assert_eq!((output.report.code, output.stdout), (Some(0), Vec::new()));
}

#[test]
fn output_is_live() {
    let agent = Agent::start();
    let mut child = agent
        .exec(with_stdin(shell("echo one; read x; echo $x")))
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0; 4];
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"one\n");
    child.stdin.as_mut().unwrap().write_all(b"two\n").unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "two\n");
    assert_eq!(child.wait().unwrap().report.code, Some(0));
}

#[test]
fn end_of_input_arrives_while_output_goes_on() {
    let agent = Agent::start();
    let line = "cat >/dev/null; echo ended; sleep 0.1; echo more";
    let output = agent
        .exec(with_stdin(shell(line)))
        .output(b"some", 100)
        .unwrap();
    assert_eq!(output.stdout, b"ended\nmore\n");
}

#[test]
fn binary_data_returns_unchanged() {
    const SIZE: usize = 100 << 20;
    let agent = Agent::start();
    let mut child = agent.exec(with_stdin(request(&["cat"]))).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || {
        let mut hash = Sha256::new();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut chunk = vec![0; 1 << 20];
        for _ in 0..SIZE / chunk.len() {
            for bytes in chunk.chunks_exact_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.copy_from_slice(&state.to_le_bytes());
            }
            hash.update(&chunk);
            stdin.write_all(&chunk).unwrap();
        }
        hash.finalize()
    });
    let mut stdout = child.stdout.take().unwrap();
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut chunk = vec![0; 100_000];
    loop {
        let count = stdout.read(&mut chunk).unwrap();
        if count == 0 {
            break;
        }
        size += count;
        hash.update(&chunk[..count]);
    }
    assert_eq!(size, SIZE);
    assert_eq!(hash.finalize(), writer.join().unwrap());
    assert_eq!(child.wait().unwrap().report.code, Some(0));
}

#[test]
fn reader_that_stops_costs_no_memory_and_holds_up_nothing_else() {
    let agent = Agent::start();
    // Standard output stalls at once; standard error, input and the end have to pass by.
    let line = "yes & read x; echo $x >&2; kill $!; exit 7";
    let mut child = agent.exec(with_stdin(shell(line))).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let stdout = child.stdout.take().unwrap();
    thread::sleep(Duration::from_millis(300));
    let before = resident_kib(agent.pid());
    thread::sleep(Duration::from_millis(300));
    assert!(
        resident_kib(agent.pid()) <= before + 64,
        "the agent's sessions grow"
    );
    assert!(before < 8 * 1024, "{before} KiB for a stalled session");
    child.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    let mut text = [0; 6];
    stderr.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello\n");
    drop(stdout);
    assert_eq!(child.wait().unwrap().report.code, Some(7));
}

/// What the agent and its sessions have in memory, in KiB.
fn resident_kib(agent: u32) -> u64 {
    let children = format!("/proc/{agent}/task/{agent}/children");
    let children = std::fs::read_to_string(children).unwrap_or_default();
    let sessions = children.split_whitespace().map(str::to_owned);
    sessions
        .chain([agent.to_string()])
        .filter_map(|pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status
                .lines()
                .find(|line| line.starts_with("RssAnon:"))?
                .to_owned();
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .sum()
}

#[test]
fn output_without_reader_ends_the_command_as_in_a_pipeline() {
    let agent = Agent::start();
    let mut child = agent.exec(request(&["yes"])).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 10]).unwrap();
    drop(stdout);
    assert_eq!(child.wait().unwrap().report.signal, Some(13));
}

#[test]
fn command_that_reads_no_input_is_not_held_up_by_it() {
    let agent = Agent::start();
    let input = vec![0; 10 << 20];
    let output = agent
        .exec(with_stdin(request(&["true"])))
        .output(&input, 100)
        .unwrap();
    assert_eq!(output.report.code, Some(0));
}

#[test]
fn command_that_closes_its_input_goes_on() {
    let agent = Agent::start();
    let input = vec![0; 10 << 20];
    let line = "exec <&-; sleep 0.2; echo still here";
    let output = agent
        .exec(with_stdin(shell(line)))
        .output(&input, 100)
        .unwrap();
    assert_eq!(output.stdout, b"still here\n");
}

#[test]
fn output_beyond_the_limit_is_cut_and_told() {
    let agent = Agent::start();
    let request = ExecRequest {
        max_output: Some(1000),
        ..shell("head -c 1000000 /dev/zero; echo x >&2")
    };
    let output = agent.run(request).unwrap();
    assert_eq!(
        (output.stdout.len(), output.stderr.as_slice()),
        (1000, &b"x\n"[..])
    );
    assert!(output.report.truncated);
    assert_eq!(output.report.code, Some(0));
}

#[test]
fn client_that_collects_keeps_to_its_own_limit() {
    let agent = Agent::start();
    let exec = agent.exec(shell("head -c 1000000 /dev/zero"));
    let output = exec.output(b"", 1000).unwrap();
    assert_eq!((output.stdout.len(), output.report.truncated), (1000, true));
}

#[test]
fn daemon_that_holds_the_output_does_not_hold_up_the_report() {
    let agent = Agent::start();
    let began = Instant::now();
    let output = agent.shell("sleep 3 & echo done");
    assert_eq!(
        (output.report.code, output.stdout),
        (Some(0), b"done\n".to_vec())
    );
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn last_words_of_a_pipeline_arrive() {
    let agent = Agent::start();
    let output = agent.shell("(sleep 0.03; echo late) & echo early");
    assert_eq!(output.stdout, b"early\nlate\n");
}

#[test]
fn slow_reader_gets_all_that_the_command_had_written() {
    let agent = Agent::start();
    // The command ends at once, and a daemon keeps its output open.
    let line = "head -c 60000 /dev/zero; sleep 5 & true";
    let mut child = agent.exec(shell(line)).spawn().unwrap();
    thread::sleep(Duration::from_millis(400));
    let mut received = Vec::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut received)
        .unwrap();
    assert_eq!(received.len(), 60_000);
}

#[test]
fn pump_serves_files_sockets_and_pipes() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("input");
    std::fs::write(&path, vec![b'i'; 300_000]).unwrap();
    let input = File::open(&path).unwrap();
    let out_path = folder.path().join("output");
    let out = File::create(&out_path).unwrap();
    let (err, mut err_reader) = UnixStream::pair().unwrap();
    let reader = thread::spawn(move || {
        let mut received = Vec::new();
        err_reader.read_to_end(&mut received).unwrap();
        received
    });
    let finished = agent
        .pump(
            with_stdin(shell("tee /dev/stderr")),
            PumpIo {
                stdin: InputSource::Fd(input.as_fd()),
                stdout: OutputTarget::Fd(out.as_fd()),
                stderr: OutputTarget::Fd(err.as_fd()),
                ..PumpIo::default()
            },
        )
        .unwrap();
    drop(err);
    assert_eq!(finished.report.code, Some(0));
    assert_eq!(std::fs::read(&out_path).unwrap(), vec![b'i'; 300_000]);
    assert_eq!(reader.join().unwrap(), vec![b'i'; 300_000]);
}

#[test]
fn output_that_takes_no_more_ends_the_command_with_the_reason() {
    let agent = Agent::start();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let error = agent
        .pump(
            request(&["yes"]),
            PumpIo {
                stdout: OutputTarget::Fd(full.as_fd()),
                ..PumpIo::default()
            },
        )
        .unwrap_err();
    assert_eq!(error.to_string(), "writing the command's standard output");
    eventually("the session is gone", || {
        resident_children(agent.pid()) == 0
    });
}

fn resident_children(agent: u32) -> usize {
    let children = format!("/proc/{agent}/task/{agent}/children");
    std::fs::read_to_string(children)
        .unwrap_or_default()
        .split_whitespace()
        .count()
}

#[test]
fn command_can_open_its_streams_by_name() {
    let agent = Agent::start();
    let output = agent.shell("echo out >/dev/stdout; echo err >/dev/stderr");
    assert_eq!(
        (output.stdout, output.stderr),
        (b"out\n".to_vec(), b"err\n".to_vec())
    );
}
