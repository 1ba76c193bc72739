//! Operations on files that do not come to their end: nothing of them is left.

use anyhow::{Result, ensure};
use sovereign::Detached;
use sovereign::files::FaultKind;

use crate::desk::files;
use crate::facts::Need;
use crate::operations::{fault, read, write};
use crate::roles::{Player, Role};
use crate::subject::{Runs, Subject, wait_until};
use crate::suite::{Suite, case, needing};

pub(crate) fn add(suite: &mut Suite) {
    suite.add(
        "operations",
        [
            case("killed_writer_leaves_the_old_file_alone", killed_writer),
            case("killed_archive_leaves_the_old_file_alone", killed_archive),
            needing(
                "full_places_are_told_and_left_as_they_were",
                &[Need::BoundedFiles],
                no_room,
            ),
        ],
    );
}

fn killed_writer(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    files(&own)?.make_directory(b"killed", true, None)?;
    write(&own, b"killed/file", b"old")?;
    Player::start(Role::Writer, &own, b"killed/file")?.kill();
    nothing_is_left(&own, "killed", "file")?;
    own.sh("cat killed/file; rm -r killed")?.says("old")
}

fn killed_archive(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    files(&own)?.make_directory(b"torn", true, None)?;
    write(&own, b"torn/second", b"old")?;
    let player = Player::start(Role::Unpacker, &own, b"torn")?;
    // What comes before is whole.
    wait_until("it is being unpacked", || {
        Ok(own.sh("test -e torn/first")?.code() == 0)
    })?;
    player.kill();
    nothing_is_left(&own, "torn", "first second")?;
    own.sh("cat torn/second; rm -r torn")?.says("old")
}

/// That a transfer is over, and these are the files of the folder.
fn nothing_is_left(own: &Detached, folder: &str, expected: &str) -> Result<()> {
    let list = || own.sh(&format!("echo $(ls -A {folder})"));
    wait_until("only whole files are left", || {
        Ok(list()?.text() == expected)
    })
}

fn no_room(subject: &Subject) -> Result<()> {
    let own = subject
        .desk()?
        .start(|plan| plan.spec.overlay_mib = Some(16))?;
    write(&own, b"file", b"old")?;
    let large = vec![b'x'; 24 << 20];
    let refused = fault(files(&own)?.write(b"file", None, &mut large.as_slice()))?;
    ensure!(
        refused.kind == FaultKind::NoSpace && refused.path == "file",
        "{refused:?}"
    );
    own.sh("cat file; echo; ls -A | grep -c sovereign")?
        .ends_with(1)?;
    write(&own, b"file", b"new")?;
    ensure!(read(&own, b"file")? == b"new");
    own.kill()?;
    Ok(())
}
