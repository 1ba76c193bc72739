//! What a guest wrote to its console.

use std::io::Read;

use anyhow::ensure;

use super::Desk;
use crate::suite::{Outcome, PASSED};

pub(super) fn console_is_kept_or_told_to_be_none(desk: &Desk) -> Outcome {
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    if desk.tier != "microvm" {
        let output = desk.call(["logs", "--console", "a"]).output()?;
        ensure!(output.code() == Some(125), "{output}");
        let words = format!("tier {} cannot honour --console", desk.tier);
        ensure!(output.errors().contains(&words), "{output}");
        return PASSED;
    }
    let console = |args: &[&str]| desk.says(&[&["logs", "--console"], args, &["a"]].concat());
    let say = |what: &str| {
        let script = format!("printf '{what}' > /dev/console");
        desk.says(&["exec", "-u", "root", "a", "--", "sh", "-c", &script])
    };
    say("first\\n\\033[2Jsecond\\n")?;
    desk.eventually("the console is there", || {
        Ok(console(&["--tail", "2"])? == "first\n\\x1b[2Jsecond")
    })?;
    let follow = ["logs", "--console", "-f", "--tail", "1", "a"];
    let mut following = desk.call(follow).start()?;
    let mut stdout = following.take_stdout()?;
    say("third\\n")?;
    // A flood stalls nobody, and its end is kept.
    let flood =
        "yes 0123456789012345678901234567890123456789012345678901234567890123 | head -n 700";
    let flood = format!("{flood} > /dev/console; echo last > /dev/console");
    desk.says(&["exec", "-u", "root", "a", "--", "sh", "-c", &flood])?;
    desk.eventually("the end of a flood is there", || {
        Ok(console(&["-n", "1"])?.trim() == "last")
    })?;
    // What a guest says as it dies is kept after it (reboot(2), LINUX_REBOOT_CMD_RESTART).
    let die = "echo dying > /dev/console; \
               exec python3 -c 'import ctypes; ctypes.CDLL(None).reboot(0x1234567)'";
    desk.call(["exec", "-u", "root", "a", "--", "sh", "-c", die])
        .output()?;
    desk.eventually("the guest is dead", || Ok(desk.state_of("a")? != "running"))?;
    let text = console(&["-n", "20"])?;
    ensure!(text.contains("dying"), "{text}");
    // It has not been read until now: what was lost meanwhile is in the middle.
    let mut followed = String::new();
    stdout.read_to_string(&mut followed)?;
    ensure!(following.wait()?.success());
    ensure!(
        followed.contains("third\n") && followed.contains("dying\n"),
        "{}",
        followed.len()
    );
    desk.says(&["rm", "-f", "a"])?;
    PASSED
}
