//! `sovereign image`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sovereign_tests::call::Sovereign;
use sovereign_tests::images::Store;

use crate::suite::{Outcome, PASSED, Suite, skip};

pub(crate) fn add(suite: &mut Suite) {
    suite.host(
        "image",
        &[
            (
                "ls_of_an_empty_store_is_empty",
                ls_of_an_empty_store_is_empty,
            ),
            (
                "missing_image_is_told_with_the_command_that_builds_it",
                missing_image_is_told,
            ),
            (
                "ls_inspect_verify_and_rm_agree",
                ls_inspect_verify_and_rm_agree,
            ),
            (
                "prune_removes_what_no_image_needs",
                prune_removes_what_no_image_needs,
            ),
            (
                "full_disk_is_told_and_leaves_nothing",
                full_disk_is_told_and_leaves_nothing,
            ),
        ],
    );
}

fn ls_of_an_empty_store_is_empty(sovereign: &Sovereign) -> Outcome {
    let store = tempfile::tempdir()?;
    let call = sovereign.call(["image", "ls", "--json"]);
    let output = call.env("SOVEREIGN_DATA_DIR", store.path()).output()?;
    ensure!(output.code() == Some(0), "{output}");
    ensure!(
        output.json()?.as_array().is_some_and(Vec::is_empty),
        "{output}"
    );
    PASSED
}

fn missing_image_is_told(sovereign: &Sovereign) -> Outcome {
    let store = tempfile::tempdir()?;
    let call = sovereign.call(["image", "inspect", "absent"]);
    let output = call.env("SOVEREIGN_DATA_DIR", store.path()).output()?;
    ensure!(output.code() == Some(125), "{output}");
    ensure!(
        output
            .errors()
            .contains("sovereign image build --name absent"),
        "{output}"
    );
    PASSED
}

/// A store with a copy of the user's default image, or `None` if the user has none.
fn copied_store() -> Result<Option<tempfile::TempDir>> {
    let store = Store::of_this_user()?;
    if !store.has_default() {
        return Ok(None);
    }
    let dir = tempfile::tempdir()?;
    store.copy_default_to(dir.path())?;
    Ok(Some(dir))
}

fn ls_inspect_verify_and_rm_agree(sovereign: &Sovereign) -> Outcome {
    let Some(store) = copied_store()? else {
        return skip("no image was built");
    };
    let call = |args: &[&str]| {
        sovereign
            .call(args)
            .env("SOVEREIGN_DATA_DIR", store.path())
            .output()
    };
    let list = call(&["image", "ls", "--json"])?.json()?;
    ensure!(list[0]["name"] == "sandbox", "{list}");
    let inspected = call(&["image", "inspect", "sandbox", "--json"])?;
    ensure!(inspected.code() == Some(0), "{inspected}");
    let verified = call(&["image", "verify", "sandbox"])?;
    ensure!(verified.code() == Some(0), "{verified}");
    let removed = call(&["image", "rm", "sandbox"])?;
    ensure!(removed.code() == Some(0), "{removed}");
    let list = call(&["image", "ls", "--json"])?.json()?;
    ensure!(list.as_array().is_some_and(Vec::is_empty), "{list}");
    ensure!(blobs(store.path())? == 0, "rm left blobs behind");
    PASSED
}

fn prune_removes_what_no_image_needs(sovereign: &Sovereign) -> Outcome {
    let Some(store) = copied_store()? else {
        return skip("no image was built");
    };
    let before = blobs(store.path())?;
    fs::write(
        store.path().join("blobs/sha256").join("f".repeat(64)),
        "orphan",
    )?;
    let call = sovereign
        .call(["image", "prune"])
        .env("SOVEREIGN_DATA_DIR", store.path());
    let output = call.output()?;
    ensure!(output.code() == Some(0), "{output}");
    ensure!(blobs(store.path())? == before, "{output}");
    PASSED
}

/// The build finds all its parts in the cache, and no room for them on a disk of 8 MiB.
fn full_disk_is_told_and_leaves_nothing(sovereign: &Sovereign) -> Outcome {
    if !Store::of_this_user()?.has_default() {
        return skip("no image was built");
    }
    let dir = tempfile::tempdir()?;
    // The store's lock stays: it names who held it last.
    let script = "mount -t tmpfs -o size=8m,mode=0700 tmpfs \"$1\" || exit 99
        SOVEREIGN_DATA_DIR=\"$1\" \"$2\" image build --progress none; code=$?
        find \"$1\" -type f -size +0 ! -name lock; exit $code";
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(sovereign.program());
    let output = command.output().context("cannot start unshare")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(99) || said.contains("unshare failed") {
        return skip(format!(
            "no file system can be mounted here: {}",
            said.trim()
        ));
    }
    if said.contains("is not installed") {
        return skip(format!("no image can be built here: {}", said.trim()));
    }
    ensure!(
        output.status.code() == Some(125),
        "{}: {said}",
        output.status
    );
    ensure!(said.contains("space"), "{said}");
    let left = String::from_utf8_lossy(&output.stdout);
    ensure!(left.trim().is_empty(), "files are left: {left}");
    PASSED
}

fn blobs(store: &Path) -> Result<usize> {
    Ok(fs::read_dir(store.join("blobs/sha256"))?.count())
}
