//! T-APTS in the local tier: there without an image, without network, and what it should be.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use sovereign_tests::call::{Call, Sovereign};
use tempfile::TempDir;

use super::{Local, NOBODY, as_each_user, is_installed};
use crate::suite::{Outcome, PASSED, Suite, skip};

pub(crate) fn add(suite: &mut Suite) {
    suite.host(
        "local",
        &[
            ("t_apts_can_be_called", t_apts_can_be_called),
            ("t_apts_is_made_once_by_many", t_apts_is_made_once_by_many),
            (
                "t_apts_that_was_changed_is_replaced",
                t_apts_that_was_changed_is_replaced,
            ),
            (
                "own_python_path_is_left_alone",
                own_python_path_is_left_alone,
            ),
        ],
    );
}

/// A folder for a user's data.
struct Data(TempDir);

impl Data {
    fn of(local: &Local) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        if local.as_nobody {
            chown(folder.path(), Some(NOBODY), Some(NOBODY))?;
        }
        Ok(Self(folder))
    }

    /// A sandbox whose T-APTS is below this folder.
    fn run(&self, local: &Local, args: &[&str]) -> Call {
        let call = local.run([&["-q"], args].concat());
        call.env("SOVEREIGN_DATA_DIR", self.0.path())
    }

    /// The folder with the package.
    fn package(&self) -> Result<PathBuf> {
        let entries = fs::read_dir(self.0.path().join("apts"))?;
        let folders: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_dir())
            .collect();
        let [folder] = folders.as_slice() else {
            return Err(anyhow!("not one folder: {folders:?}"));
        };
        Ok(folder.clone())
    }
}

fn t_apts_can_be_called(sovereign: &Sovereign) -> Outcome {
    if !is_installed("python3") {
        return skip("there is no python3");
    }
    as_each_user(sovereign, |local| {
        let data = Data::of(local)?;
        let call = ["-i", "--", "python3", "-m", "terminai_apts", "write_file"];
        let request = r#"{"path": "/tmp/sovereign-e2e-apts", "content": "x"}"#;
        let output = data.run(local, &call).stdin(request).output()?;
        ensure!(output.code() == Some(0), "{output}");
        ensure!(output.json()?["result"] == 1, "{output}");
        let old = [
            "--",
            "python3",
            "-c",
            "import apts.model; print(apts.__version__)",
        ];
        let output = data.run(local, &old).output()?;
        ensure!(output.text() == "0.1.0", "{output}");
        let _ = fs::remove_file("/tmp/sovereign-e2e-apts");
        PASSED
    })
}

fn t_apts_is_made_once_by_many(sovereign: &Sovereign) -> Outcome {
    as_each_user(sovereign, |local| {
        let data = Data::of(local)?;
        let line = [
            "--",
            "sh",
            "-c",
            "cat $PYTHONPATH/terminai_apts/__init__.py",
        ];
        let running: Vec<_> = (0..8)
            .map(|_| data.run(local, &line).start())
            .collect::<Result<_>>()?;
        for mut running in running {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut running.take_stdout()?, &mut text)?;
            ensure!(
                running.wait()?.success() && text.contains("0.1.0"),
                "{text:?}"
            );
        }
        data.package()?;
        PASSED
    })
}

fn t_apts_that_was_changed_is_replaced(sovereign: &Sovereign) -> Outcome {
    as_each_user(sovereign, |local| {
        let data = Data::of(local)?;
        let show = [
            "--",
            "sh",
            "-c",
            "ls $PYTHONPATH; cat $PYTHONPATH/apts/*.py",
        ];
        let good = data.run(local, &show).output()?;
        ensure!(good.code() == Some(0), "{good}");
        let changes: [fn(&Path) -> std::io::Result<()>; 2] = [
            |folder| fs::write(folder.join("json.py"), "raise SystemExit(99)"),
            |folder| {
                fs::remove_file(folder.join("apts/__init__.py"))?;
                fs::write(folder.join("apts/__init__.py"), "raise SystemExit(99)")
            },
        ];
        for change in changes {
            // Longer than a tick of the clock of files.
            thread::sleep(Duration::from_millis(50));
            change(&data.package()?).context("cannot change it")?;
            let output = data.run(local, &show).output()?;
            ensure!(output.stdout == good.stdout, "{output}");
        }
        PASSED
    })
}

fn own_python_path_is_left_alone(sovereign: &Sovereign) -> Outcome {
    as_each_user(sovereign, |local| {
        let data = Data::of(local)?;
        let args = [
            "-e",
            "PYTHONPATH=/mine",
            "--",
            "sh",
            "-c",
            "echo $PYTHONPATH",
        ];
        let output = data.run(local, &args).output()?;
        ensure!(output.text() == "/mine", "{output}");
        PASSED
    })
}
