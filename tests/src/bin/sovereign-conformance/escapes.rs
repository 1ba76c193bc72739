//! Copies of what a hostile hand has made: nothing is written, or read, outside of where it belongs.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Result, bail, ensure};
use sovereign::FilesError;
use sovereign::files::{FaultKind, copy_out};

use crate::desk::{files, source};
use crate::forged::{archive, header};
use crate::subject::{Runs, Subject, read_line, take};
use crate::suite::{Suite, case};

pub(crate) fn add(suite: &mut Suite) {
    suite.add(
        "copies",
        [
            case("hostile_archives_write_nothing_outside", hostile_archives),
            case("links_of_a_sandbox_lead_nowhere_here", links),
            case("folders_that_change_meanwhile_lead_nowhere", swapped),
        ],
    );
}

fn hostile_archives(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    own.sh("mkdir -p wall/in wall/out; echo secret > wall/out/file; ln -s ../out wall/in/there")?
        .ends_with(0)?;
    let evil = |name: &[u8]| (header(b'0', name, b"", 4), &b"evil"[..]);
    let link = |kind, name: &[u8], to: &[u8]| (header(kind, name, to, 0), &b""[..]);
    for entries in [
        vec![evil(b"../out/evil")],
        vec![evil(b"a/../../out/evil")],
        vec![evil(b"/tmp/evil-7")],
        vec![evil(b"there/evil")],
        vec![link(b'2', b"new", b"../out"), evil(b"new/evil")],
        vec![link(b'2', b"new2", b"/"), evil(b"new2/tmp/evil-7")],
        vec![link(b'1', b"hard", b"../out/file")],
        vec![link(b'1', b"hard", b"there/file")],
        vec![link(b'3', b"device", b"")],
    ] {
        let name = entries
            .last()
            .map(|(header, _)| header.clone())
            .unwrap_or_default();
        let name = String::from_utf8_lossy(name.get(..20).unwrap_or_default()).into_owned();
        match files(&own)?.unpack(b"wall/in", None, &mut archive(&entries).as_slice()) {
            Err(FilesError::Fault(fault)) if fault.kind == FaultKind::Refused => {
                ensure!(!fault.path.is_empty(), "{fault:?}");
            }
            other => bail!("{name:?} was not refused: {other:?}"),
        }
    }
    let script = "ls -A wall/out; cat wall/out/file; stat -c %h wall/out/file; \
                  ls -A wall/in | tr '\\n' ' '; ls /tmp/evil-7 2>/dev/null; rm -r wall";
    own.sh(script)?.says("file\nsecret\n1\nnew new2 there")
}

fn links(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    let here = tempfile::tempdir()?;
    let path = |name: &str| here.path().join(name);
    fs::create_dir(path("outside"))?;
    fs::write(path("outside/file"), "ours")?;
    let outside = path("outside").display().to_string();
    let script = format!(
        "mkdir -p trap/sub; ln -s {outside}/file trap/file; ln -s {outside} trap/folder; ln -s / trap/sub/root"
    );
    own.sh(&script)?.ends_with(0)?;
    copy_out(&source(&own), b"trap", &path("copy"), false)?;
    ensure!(path("copy/folder").symlink_metadata()?.is_symlink());
    ensure!(path("copy/file").symlink_metadata()?.is_symlink());
    // Now what are links here are files and folders there, with something in them.
    own.sh("cd trap; rm file folder; echo evil > file; mkdir folder; echo evil > folder/file")?
        .ends_with(0)?;
    let through = copy_out(&source(&own), b"trap/.", &path("copy"), false);
    ensure!(through.is_err(), "it was written through a link");
    ensure!(fs::read_to_string(path("outside/file"))? == "ours");
    ensure!(fs::read_dir(path("outside"))?.count() == 1);
    // A file takes the place of a link, and does not go through it.
    copy_out(&source(&own), b"trap/file", &path("copy/sub"), false)?;
    symlink("../../outside/file", path("copy/sub/link"))?;
    own.sh("echo evil > trap/link")?.ends_with(0)?;
    copy_out(&source(&own), b"trap/link", &path("copy/sub"), false)?;
    ensure!(fs::read_to_string(path("copy/sub/link"))? == "evil\n");
    ensure!(fs::read_to_string(path("outside/file"))? == "ours");
    own.sh("rm -r trap")?.ends_with(0)
}

fn swapped(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    let here = tempfile::tempdir()?;
    let script = "mkdir -p swap/d hidden; echo secret > hidden/file; echo open > swap/d/file";
    own.sh(script)?.ends_with(0)?;
    let mut swapping = own.spawn(
        "cd swap; echo up; while :; do mv d e; ln -s ../hidden d; rm d; mv e d; done 2>/dev/null",
    )?;
    let mut stdout = take(&mut swapping.stdout)?;
    read_line(&mut stdout)?;
    for number in 0..8 {
        let copy = here.path().join(number.to_string());
        // Whether there is a whole copy is up to chance.
        let _ = copy_out(&source(&own), b"swap", &copy, false);
        let Ok(listed) = copy.read_dir() else {
            continue;
        };
        for entry in listed {
            let path = entry?.path();
            if !path.symlink_metadata()?.is_symlink() {
                let text = fs::read_to_string(path.join("file")).unwrap_or_default();
                ensure!(
                    !text.contains("secret"),
                    "a link was followed: {}",
                    path.display()
                );
            }
        }
    }
    drop(swapping);
    // The swapping ends soon, but not at once.
    own.sh("for n in $(seq 100); do rm -rf swap hidden && exit 0; sleep 0.1; done; exit 1")?
        .ends_with(0)
}
