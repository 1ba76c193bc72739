//! That the README's lines can be pasted into a shell, one after the other.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sovereign_tests::call::Sovereign;

use crate::detached::{self, Desk};
use crate::suite::{Outcome, PASSED, Suite};

const README: &str = include_str!("../../../../README.md");

/// What the lines stand between.
const BEGIN: &str = "\nThese lines work one after the other";
const END: &str = "\nAt a terminal,";

/// How many seconds a line may take.
const DEADLINE: &str = "60";

pub(crate) fn add(suite: &mut Suite) {
    suite.host(
        "walkthrough",
        &[("the_readme_can_be_pasted", the_readme_can_be_pasted)],
    );
}

fn the_readme_can_be_pasted(sovereign: &Sovereign) -> Outcome {
    detached::with(sovereign, "local", |desk| {
        let (_, rest) = README.split_once(BEGIN).context("no beginning")?;
        let (text, _) = rest.split_once(END).context("no end")?;
        let lines: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("    "))
            .collect();
        ensure!(lines.len() > 10, "{lines:?}");
        let folder = tempfile::tempdir()?;
        // Whatever else this machine has.
        let config = folder.path().join("config/sovereign");
        fs::create_dir_all(&config)?;
        let tier = format!("tier = {:?}\n", desk.tier);
        fs::write(config.join("config.toml"), tier)?;
        for line in lines {
            let output = Command::new("timeout")
                .args([DEADLINE, "sh", "-c", line])
                .current_dir(folder.path())
                .env("PATH", path(desk)?)
                .env("SOVEREIGN_STATE_DIR", desk.state.path())
                .env("XDG_CONFIG_HOME", folder.path().join("config"))
                .stdin(Stdio::null())
                .output()?;
            let told = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{line}: {told}");
        }
        let result = fs::read(folder.path().join("result.txt"))?;
        ensure!(result == b"42\n", "{result:?}");
        PASSED
    })
}

/// The shell finds the program under test first.
fn path(desk: &Desk) -> Result<OsString> {
    let own = desk.program().parent().context("a program in no folder")?;
    let others = env::var_os("PATH").unwrap_or_default();
    let folders = [PathBuf::from(own)]
        .into_iter()
        .chain(env::split_paths(&others));
    Ok(env::join_paths(folders)?)
}
