//! `sovereign image`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use sandbox_image::archive::{ExtractError, extract};
use sandbox_image::progress::{Silent, Step};
use serde_json::Value;
use sovereign_tests::call::Sovereign;
use sovereign_tests::images::Store;

use crate::small_disk::SmallDisk;
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
            (
                "verify_tells_of_each_check_and_tier",
                verify_tells_of_each_check_and_tier,
            ),
            (
                "build_that_breaks_its_contract_is_not_published",
                broken_build_is_not_published,
            ),
            (
                "packages_come_from_debian_where_apt_knows_none",
                packages_come_from_debian,
            ),
        ],
    );
    suite.guest(
        "image",
        &[("image_keeps_its_contract", image_keeps_its_contract)],
    );
}

/// As on Ubuntu, for the kernel's source; a small package does it here.
fn packages_come_from_debian(_: &Sovereign) -> Outcome {
    let folder = tempfile::tempdir()?;
    let tar = folder.path().join("packages.tar");
    let step = Step::begin(&Silent, "taking a package");
    match extract(&["hostname"], &tar, &step) {
        Err(error @ (ExtractError::Tool(_) | ExtractError::Elevate(_))) => {
            return skip(error.to_string());
        }
        taken => taken?,
    }
    let listing = Command::new("tar").arg("-tf").arg(&tar).output()?;
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    ensure!(
        listing.lines().any(|path| path.ends_with("bin/hostname")),
        "{listing}"
    );
    PASSED
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
        .env("SOVEREIGN_CACHE_DIR", store.path().join("cache"))
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
    // The store's locks stay: they name who held them last.
    let script = "SOVEREIGN_DATA_DIR=\"$1\" \"$2\" image build --progress none; code=$?
        find \"$1\" -type f -size +0 ! -name '*lock'; exit $code";
    let output = match SmallDisk::of("8m", dir.path()).run(sovereign.program(), script)? {
        Ok(output) => output,
        Err(reason) => return skip(reason),
    };
    let said = String::from_utf8_lossy(&output.stderr);
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

/// The rows of `image verify --json` that did not pass.
fn not_passed(answer: &Value) -> Vec<&Value> {
    let rows = answer["checks"].as_array().into_iter().flatten();
    rows.filter(|row| row["result"] != "passed").collect()
}

fn verify_tells_of_each_check_and_tier(sovereign: &Sovereign) -> Outcome {
    let Some(store) = copied_store()? else {
        return skip("no image was built");
    };
    let verify = |args: &[&str]| {
        let call = sovereign.call([&["image", "verify", "--json", "-q"], args].concat());
        call.env("SOVEREIGN_DATA_DIR", store.path()).output()
    };
    let output = verify(&["--tier", "local"])?;
    let answer = output.json()?;
    ensure!(output.code() == Some(0), "{output}");
    ensure!(
        answer["passed"] == true && answer["intact"] == true,
        "{output}"
    );
    let rows = answer["checks"].as_array().context("no checks")?;
    for check in [
        "files",
        "agent-of-image",
        "contents",
        "start",
        "t-apts",
        "clock",
        "entropy",
    ] {
        ensure!(
            rows.iter().any(|row| row["check"] == check),
            "{check}: {output}"
        );
    }
    let failed = |row: &&Value| row["result"] == "failed";
    ensure!(!not_passed(&answer).iter().any(failed), "{output}");
    let output = verify(&["--tier", "appcontainer"])?;
    ensure!(output.code() == Some(1), "{output}");
    let answer = output.json()?;
    let [row] = not_passed(&answer)[..] else {
        return Err(anyhow!("{output}"));
    };
    ensure!(
        row["tier"] == "appcontainer" && row["check"] == "start",
        "{output}"
    );
    ensure!(row["result"] == "failed", "{output}");
    PASSED
}

/// In the tier that can run it: the lab has it, or this machine.
fn image_keeps_its_contract(sovereign: &Sovereign) -> Outcome {
    let call = sovereign.call(["image", "verify", "--json", "-q", "--tier", "microvm"]);
    let output = call.deadline(Duration::from_secs(240)).output()?;
    ensure!(output.code() == Some(0), "{output}");
    ensure!(not_passed(&output.json()?).is_empty(), "{output}");
    PASSED
}

/// An agent that does not tell the version of its protocol is one of another release.
fn broken_build_is_not_published(sovereign: &Sovereign) -> Outcome {
    const TOLD: &[u8] = b"(protocol ";
    let Some(store) = copied_store()? else {
        return skip("no image was built");
    };
    let mut agent = fs::read(sovereign.program().with_file_name("sovereign-agent"))?;
    let places: Vec<_> = agent
        .windows(TOLD.len())
        .enumerate()
        .filter_map(|(place, bytes)| (bytes == TOLD).then_some(place))
        .collect();
    ensure!(!places.is_empty(), "the agent tells no protocol");
    for place in places {
        if let Some(byte) = agent.get_mut(place) {
            *byte = b'x';
        }
    }
    let other = store.path().join("agent");
    fs::write(&other, agent)?;
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755))?;
    let call = |args: &[&str]| {
        let call = sovereign.call(args).env("SOVEREIGN_DATA_DIR", store.path());
        call.deadline(Duration::from_secs(240)).output()
    };
    let before = call(&["image", "ls", "--json"])?.json()?;
    let path = other.to_str().context("a strange folder")?;
    let output = call(&["image", "build", "--progress", "none", "--agent", path])?;
    if output.errors().contains("is not installed") {
        return skip("no image can be built here");
    }
    ensure!(output.code() == Some(125), "{output}");
    ensure!(output.errors().contains("agent-of-image"), "{output}");
    let after = call(&["image", "ls", "--json"])?.json()?;
    ensure!(after == before, "{before} became {after}");
    PASSED
}

fn blobs(store: &Path) -> Result<usize> {
    Ok(fs::read_dir(store.join("blobs/sha256"))?.count())
}
