//! Exit codes, signals, reports.

use std::time::Duration;

use agent_client::{Control, PumpIo, control_channel};

use crate::agent::{Agent, eventually, request, runs, shell, unique_sleep};

#[test]
fn exit_code_is_the_commands_own() {
    let agent = Agent::start();
    for code in [0, 1, 3, 124, 125, 126, 127, 255] {
        let report = agent.shell(&format!("exit {code}")).report;
        assert_eq!((report.code, report.signal), (Some(code), None));
        assert_eq!(report.exit_code(), code);
    }
}

#[test]
fn death_by_signal_is_told() {
    let agent = Agent::start();
    for signal in [1, 2, 9, 15] {
        let report = agent.shell(&format!("kill -{signal} $$")).report;
        assert_eq!((report.code, report.signal), (None, Some(signal)));
        assert_eq!(report.exit_code(), 128 + signal);
    }
}

#[test]
fn signal_from_the_host_reaches_the_whole_group() {
    let agent = Agent::start();
    let (sender, receiver) = control_channel().unwrap();
    let sleep = unique_sleep();
    let request = shell(&format!("sleep {sleep} & sleep {sleep}"));
    let exec = agent.exec(request);
    let finished = std::thread::scope(|scope| {
        let pump = scope.spawn(|| {
            exec.pump(PumpIo {
                controls: Some(&receiver),
                ..PumpIo::default()
            })
        });
        eventually("both sleep", || runs(&format!("sleep\0{sleep}")));
        // `Started` may be held back for some milliseconds, and a signal that comes before it means
        // that the caller gives up.
        std::thread::sleep(Duration::from_millis(300));
        sender.send(Control::Signal(15)).unwrap();
        pump.join().unwrap().unwrap()
    });
    assert_eq!(finished.report.signal, Some(15));
    eventually("the background is gone too", || {
        !runs(&format!("sleep\0{sleep}"))
    });
}

#[test]
fn duration_is_the_commands_own() {
    let agent = Agent::start();
    let report = agent.run(request(&["sleep", "0.2"])).unwrap().report;
    assert!(
        report.duration >= Duration::from_millis(200),
        "{:?}",
        report.duration
    );
    assert!(
        report.duration < Duration::from_secs(5),
        "{:?}",
        report.duration
    );
}

#[test]
fn arguments_arrive_as_they_are() {
    let agent = Agent::start();
    let arguments = [
        "", " ", "a b", "$HOME", "`id`", "'\";|&", "\n", "-n", "ü", "*",
    ];
    let mut argv = vec!["printf", "%s\\0"];
    argv.extend(arguments);
    let output = agent.run(request(&argv)).unwrap();
    let expected: Vec<u8> = arguments
        .iter()
        .flat_map(|a| [a.as_bytes(), b"\0"].concat())
        .collect();
    assert_eq!(output.stdout, expected);
}

#[test]
fn arguments_need_not_be_text() {
    let agent = Agent::start();
    let mut request = request(&["printf", "%s"]);
    request.argv.push(vec![0xff, 0x80, b'\\', 1].into());
    assert_eq!(agent.run(request).unwrap().stdout, [0xff, 0x80, b'\\', 1]);
}

#[test]
fn command_starts_with_a_clean_slate() {
    let agent = Agent::start();
    let lines = "grep -E 'Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd | wc -l";
    let output = agent.shell(lines);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.split_whitespace().collect();
    // Standard input, output and error, and the folder that `ls` reads.
    let none = "0000000000000000";
    assert_eq!(lines, ["SigBlk:", none, "SigIgn:", none, "4"]);
}

#[test]
fn environment_is_what_was_asked_for() {
    let agent = Agent::start();
    let mut request = request(&["env"]);
    request.env = vec![
        (b"PATH".to_vec().into(), b"/usr/bin:/bin".to_vec().into()),
        (b"HOME".to_vec().into(), b"/nowhere".to_vec().into()),
        (b"X".to_vec().into(), b"a\nb=c".to_vec().into()),
    ];
    let text = String::from_utf8(agent.run(request).unwrap().stdout).unwrap();
    assert!(
        text.starts_with("PATH=/usr/bin:/bin\nHOME=/nowhere\nX=a\nb=c\n"),
        "{text}"
    );
    // Besides these only USER and LOGNAME.
    assert_eq!(text.lines().count(), 6, "{text}");
}

#[test]
fn working_directory_is_what_was_asked_for() {
    let agent = Agent::start();
    let mut request = request(&["pwd"]);
    request.cwd = Some(b"/usr/bin".to_vec().into());
    assert_eq!(agent.run(request).unwrap().stdout, b"/usr/bin\n");
}
