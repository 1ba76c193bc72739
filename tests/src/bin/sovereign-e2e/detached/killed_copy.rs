//! A copy that is killed where files must have names while they are written.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use sovereign_tests::bare_fs::BareFs;

use super::Desk;
use crate::suite::{Outcome, PASSED, skip};

/// Longer than what was left behind is left alone where locks may not reach whoever writes.
const AGE: Duration = Duration::from_secs(300);

/// What is called nearly as files on their way are, and what is one.
const STRANGE: [&str; 2] = [".sovereign-config", ".sovereign-0123456789ABCDEF"];
const IN_USE: &str = ".sovereign-0123456789abcdef";

/// The next copy into that folder removes what it left, and nothing else.
pub(super) fn killed_copy_leaves_nothing_for_long(desk: &Desk) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can mount a file system");
    }
    let place = tempfile::tempdir()?;
    let bare = match BareFs::mount(place.path()) {
        Ok(bare) => bare,
        Err(error) => return skip(format!("no file system can be mounted here: {error:#}")),
    };
    desk.start(&["--name", "a", "--", "sleep", "1000"])?;
    let script = "head -c 8000000 /dev/urandom > big; echo text > small";
    desk.says(&["exec", "a", "--", "sh", "-c", script])?;

    bare.write_slowly(Duration::from_millis(20));
    let target = |name: &str| place.path().join(name);
    let copy = |from: &str, to: &str| {
        let to = target(to).display().to_string();
        desk.call(["cp".to_owned(), format!("a:{from}"), to])
    };
    let mut copying = copy("big", "big").start()?;
    desk.eventually("some of it is written", || {
        let left = left(place.path())?;
        Ok(left.is_some_and(|name| target(&name).metadata().is_ok_and(|file| file.len() > 0)))
    })?;
    copying.signal(Signal::KILL)?;
    copying.wait()?;
    bare.write_slowly(Duration::ZERO);
    let left = left(place.path())?.context("nothing was left: what is looked for is not tested")?;
    ensure!(!target("big").exists(), "half a file has its name");

    for name in STRANGE.iter().chain([&IN_USE]) {
        fs::write(target(name), "")?;
    }
    let in_use = File::open(target(IN_USE))?;
    flock(&in_use, FlockOperation::NonBlockingLockExclusive)?;
    // Whoever writes could be on another machine, where a lock of this one means nothing.
    desk.good(copy("small", "one"))?;
    ensure!(target(&left).exists(), "it was just written to");
    let then = SystemTime::now() - AGE;
    for name in STRANGE.iter().chain([&IN_USE, &left.as_str()]) {
        File::options()
            .write(true)
            .open(target(name))?
            .set_modified(then)?;
    }
    desk.good(copy("small", "two"))?;
    ensure!(
        !target(&left).exists(),
        "what was left behind is still there"
    );
    for name in STRANGE.iter().chain([&IN_USE]) {
        ensure!(target(name).exists(), "{name} is gone");
    }
    for name in ["one", "two"] {
        ensure!(fs::read_to_string(target(name))? == "text\n", "{name}");
    }
    PASSED
}

/// The name of a file that is not yet in its place.
fn left(folder: &Path) -> Result<Option<String>> {
    let names = fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.file_name());
    let names = names.filter_map(|name| name.into_string().ok());
    Ok(names
        .filter(|name| !STRANGE.contains(&name.as_str()) && name != IN_USE)
        .find(|name| name.starts_with(".sovereign-")))
}
