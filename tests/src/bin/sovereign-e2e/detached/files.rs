//! Files go in, out and between.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use anyhow::ensure;

use super::Desk;
use crate::suite::{Outcome, PASSED};

/// As `docker cp` does, with modes, links and holes; and nothing is half written.
pub(super) fn files_go_in_out_and_between(desk: &Desk) -> Outcome {
    desk.start(&["--name", "one", "--", "sleep", "600"])?;
    desk.start(&["--name", "two", "--", "sleep", "600"])?;
    let here = tempfile::tempdir()?;
    let path = |name: &str| here.path().join(name).display().to_string();
    fs::create_dir_all(path("src/sub"))?;
    fs::write(path("src/sub/run"), "#!/bin/sh\necho ran\n")?;
    fs::set_permissions(path("src/sub/run"), fs::Permissions::from_mode(0o750))?;
    symlink("sub/run", path("src/link"))?;
    fs::File::create(path("src/holes"))?.set_len(100 << 20)?;
    desk.says(&["cp", &path("src"), "one:"])?;
    let ran = desk.says(&["exec", "one", "--", "sh", "-c", "src/link; id -u > src/id"])?;
    ensure!(ran.trim() == "ran", "{ran}");
    desk.says(&["cp", "one:src/.", "two:/tmp/new"])?;
    desk.says(&["cp", "two:/tmp/new", &path("back")])?;
    let run = fs::metadata(path("back/sub/run"))?;
    ensure!(run.mode() & 0o7777 == 0o750, "{:o}", run.mode());
    ensure!(run.modified()? == fs::metadata(path("src/sub/run"))?.modified()?);
    ensure!(fs::read_link(path("back/link"))?.to_str() == Some("sub/run"));
    let holes = fs::metadata(path("back/holes"))?;
    ensure!(
        holes.len() == 100 << 20 && holes.blocks() < 2048,
        "{holes:?}"
    );

    let write = desk.call(["fs", "write", "two", "note"]).stdin("text");
    desk.good(write)?;
    ensure!(desk.says(&["fs", "cat", "two", "note"])?.trim() == "text");
    let found = desk.says(&["fs", "find", "two", "/tmp/new", "--contains", "echo"])?;
    ensure!(found.trim() == "sub/run", "{found}");
    let missing = desk.call(["cp", "one:/no/such", &path("x")]).output()?;
    ensure!(missing.code() == Some(125), "{missing}");
    ensure!(
        missing.to_string().contains("/no/such: No such file"),
        "{missing}"
    );
    PASSED
}
