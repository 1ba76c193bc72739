//! Environments from files, as Docker reads them.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use rustix::process::Signal;

use super::Desk;
use crate::suite::{Outcome, PASSED};

const FILE: &str = "# a comment\n\nPLAIN=one\n  INDENTED=two words # and no comment\nQUOTED=\"as they are\"\n\
                    EMPTY=\nTWICE=first\nTWICE=last\nFROM_HERE\nNOT_HERE\nWORD=file\r\n";

pub(super) fn environment_comes_from_files(desk: &Desk) -> Outcome {
    let path = desk.state.path().join("env");
    let file = path.display().to_string();
    fs::write(&path, FILE)?;
    let words = ["--env-file", &file, "-e", "WORD=word"];
    let names = "PLAIN INDENTED QUOTED EMPTY TWICE FROM_HERE NOT_HERE WORD";
    let print = format!("for n in {names}; do eval echo \"$n=[\\${{$n-unset}}]\"; done");
    let show = ["sh", "-c", &print];
    let expected = "PLAIN=[one]\nINDENTED=[two words # and no comment]\nQUOTED=[\"as they are\"]\n\
                    EMPTY=[]\nTWICE=[last]\nFROM_HERE=[here]\nNOT_HERE=[unset]\nWORD=[word]";
    let own = [&["-d", "--name", "a"], &words[..], &["--", "sh", "-c"]].concat();
    let stays = format!("{print}; exec sleep 600");
    let run = desk.run(&[&own[..], &[&stays]].concat());
    desk.good(run.env("FROM_HERE", "here"))?;
    desk.eventually("its own command has it", || {
        Ok(desk.says(&["logs", "a"])? == expected)
    })?;
    let exec = [&["exec"], &words[..], &["a", "--"], &show].concat();
    let said = desk.good(desk.call(exec).env("FROM_HERE", "here"))?;
    ensure!(said == expected, "{said}");

    for (text, line) in [("A=1\n\n=2\n", 3), ("A=1\nexport B=2\n", 2)] {
        fs::write(&path, text)?;
        let bad = desk
            .call(["exec", "--env-file", &file, "a", "--", "true"])
            .output()?;
        let words = format!("--env-file {file}, line {line}: ");
        ensure!(bad.code() == Some(125), "{bad}");
        ensure!(bad.errors().contains(&words), "{bad}");
    }

    let pipe = desk.state.path().join("pipe").display().to_string();
    ensure!(
        Command::new("mkfifo").arg(&pipe).status()?.success(),
        "mkfifo"
    );
    let mut waiting = desk
        .call(["exec", "--env-file", &pipe, "a", "--", "true"])
        .start()?;
    thread::sleep(Duration::from_millis(300));
    waiting.signal(Signal::TERM)?;
    let ended = waiting.wait_for(Duration::from_secs(10))?;
    ensure!(
        ended.is_some(),
        "whoever waits for a pipe cannot be interrupted"
    );
    PASSED
}
