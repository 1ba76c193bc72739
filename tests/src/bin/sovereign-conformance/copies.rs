//! Trees of files, copied in, out and between: where they go, and what of them survives.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use sovereign::files::{FaultKind, copy_between, copy_in, copy_out, unpack};
use sovereign::{Detached, ErrorKind, FilesError};

use crate::desk::{files, source};
use crate::facts::Need;
use crate::forged::{archive, header, owned_header};
use crate::subject::{Runs, Subject};
use crate::suite::{Suite, case, needing};

pub(crate) fn add(suite: &mut Suite) {
    suite.add(
        "copies",
        [
            case("trees_survive_the_way_in_and_out", there_and_back),
            case("trees_go_from_one_sandbox_to_another", between),
            case("places_are_those_of_docker_cp", places),
            case("tar_streams_go_in_and_out", streams),
            case("large_files_pass_whole", large),
            case("copies_belong_to_the_user_who_copies", owned),
            needing(
                "owners_are_kept_if_root_wants_it",
                &[Need::GivenFiles],
                owners,
            ),
        ],
    );
}

/// The size of a file that has next to nothing in it.
const HOLES: u64 = 16 << 20;

/// A tree with all that a tree can have.
fn tree(folder: &Path) -> Result<std::path::PathBuf> {
    let root = folder.join("tree");
    fs::create_dir_all(root.join("sub/empty"))?;
    fs::write(root.join("sub/run"), "#!/bin/sh\necho ran\n")?;
    fs::set_permissions(root.join("sub/run"), fs::Permissions::from_mode(0o751))?;
    fs::hard_link(root.join("sub/run"), root.join("same"))?;
    symlink("sub/run", root.join("link"))?;
    symlink("/no/such", root.join("nowhere"))?;
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"a\n \xff")), "odd")?;
    fs::write(root.join("n".repeat(200)), "long")?;
    let holes = File::create(root.join("holes"))?;
    holes.set_len(HOLES)?;
    std::os::unix::fs::FileExt::write_at(&holes, b"end", HOLES - 3)?;
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    File::options()
        .write(true)
        .open(root.join("same"))?
        .set_modified(time)?;
    File::open(root.join("sub"))?.set_modified(time)?;
    Ok(root)
}

/// That one tree is as the other.
fn compare(was: &Path, is: &Path) -> Result<()> {
    let (was, is) = (was.canonicalize()?, is.canonicalize()?);
    let mut count = 0;
    let mut waiting = vec![std::path::PathBuf::new()];
    while let Some(folder) = waiting.pop() {
        for entry in was.join(&folder).read_dir()? {
            let path = folder.join(entry?.file_name());
            let [ours, theirs] = [&was, &is].map(|root| root.join(&path));
            let (old, new) = (ours.symlink_metadata()?, theirs.symlink_metadata());
            let new = new.with_context(|| format!("{} is missing", theirs.display()))?;
            let shown = theirs.display();
            ensure!(old.mode() == new.mode(), "{shown}: mode {:o}", new.mode());
            ensure!(
                old.modified()? == new.modified()?,
                "{shown}: {:?}",
                new.modified()
            );
            ensure!(old.nlink() == new.nlink(), "{shown}: {} names", new.nlink());
            if old.is_symlink() {
                ensure!(ours.read_link()? == theirs.read_link()?, "{shown}");
            } else if old.is_dir() {
                waiting.push(path);
            } else {
                ensure!(
                    old.len() == new.len() && fs::read(ours)? == fs::read(&theirs)?,
                    "{shown}"
                );
                ensure!(
                    new.blocks() * 512 <= old.len() + 65_536,
                    "{shown}: its holes are filled"
                );
            }
            count += 1;
        }
    }
    ensure!(count == 9, "{count} files were compared");
    Ok(())
}

fn there_and_back(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    let here = tempfile::tempdir()?;
    let root = tree(here.path())?;
    let copied = copy_in(&root, &source(&own), b"there", false)?;
    // The holes have not gone over.
    ensure!(copied.bytes < 1 << 20, "{copied:?}");
    let script = "cd there && sub/run && ./link && stat -c '%a %h %Y' same && du -m holes | cut -f 1 && \
                  tail -c 3 holes && set -- * && echo $#";
    own.sh(script)?
        .says("ran\nran\n751 2 1000000000\n1\nend7")?;
    let back = here.path().join("back");
    copy_out(&source(&own), b"there", &back, false)?;
    compare(&root, &back)?;
    own.sh("rm -r there")?.ends_with(0)
}

fn between(subject: &Subject) -> Result<()> {
    let desk = subject.desk()?;
    let (one, two) = (desk.shared()?, desk.start(|_| ())?);
    let here = tempfile::tempdir()?;
    let root = tree(here.path())?;
    copy_in(&root, &source(&one), b".", false)?;
    copy_between(&source(&one), b"tree/.", &source(&two), b"other", false)?;
    // And within one.
    copy_between(&source(&two), b"other", &source(&two), b"third", false)?;
    let back = here.path().join("back");
    copy_out(&source(&two), b"third", &back, false)?;
    compare(&root, &back)?;
    two.kill()?;
    one.sh("rm -r tree")?.ends_with(0)
}

fn places(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    let here = tempfile::tempdir()?;
    let path = |name: &str| here.path().join(name);
    fs::create_dir_all(path("folder"))?;
    fs::write(path("folder/x"), "x")?;
    own.sh("mkdir -p places/in; echo old > places/old; ln -s old places/link")?
        .ends_with(0)?;
    for (from, to) in [
        ("folder", "places/in"),
        ("folder/.", "places/in"),
        ("folder", "places/new"),
        ("folder/x", "places/renamed"),
        ("folder/x", "places/old"),
    ] {
        copy_in(&path(from), &source(&own), to.as_bytes(), false)
            .map_err(|problem| anyhow::anyhow!("{from} to {to}: {problem}"))?;
    }
    let script = "cd places; find . -type f | sort | tr '\\n' ' '; cat old; rm -r ../places";
    own.sh(script)?
        .says("./in/folder/x ./in/x ./new/x ./old ./renamed x")?;
    for (from, to, code) in [
        ("folder/x", "no/such/", ErrorKind::NoSuchFile),
        ("none", "places", ErrorKind::NoSuchFile),
        ("folder", "/etc/passwd", ErrorKind::NotADirectory),
    ] {
        let refused = copy_in(&path(from), &source(&own), to.as_bytes(), false);
        let told = refused.as_ref().is_err_and(|problem| problem.code == code);
        ensure!(told, "{from} to {to}: {refused:?}");
    }
    let refused = copy_out(&source(&own), b"/no/such", &path("x"), false);
    let told = refused
        .as_ref()
        .is_err_and(|problem| problem.message.contains("/no/such"));
    ensure!(told, "{refused:?}");
    Ok(())
}

fn streams(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    let here = tempfile::tempdir()?;
    let path = here.path().join("archive");
    let stream = archive(&[
        (header(b'5', b"tar/", b"", 0), b""),
        (header(b'0', b"tar/file", b"", 5), b"data\n"),
        (header(b'2', b"tar/link", b"file", 0), b""),
        (header(b'1', b"tar/same", b"tar/file", 0), b""),
    ]);
    fs::write(&path, &stream)?;
    let input = File::open(&path)?;
    unpack(std::os::fd::AsFd::as_fd(&input), &source(&own), b".")?;
    own.sh("cd tar; cat link same; stat -c '%a %h %Y' file")?
        .says("data\ndata\n644 2 1000000000")?;
    let mut out = Vec::new();
    files(&own)?.pack(b"tar", b"named", false, &mut out)?;
    files(&own)?.unpack(b"tar", Some(b"named"), &mut out.as_slice())?;
    own.sh("cat tar/named/same; rm -r tar")?.says("data")?;
    // What is cut off, or is no archive at all.
    for (bad, reason) in [
        (&stream[..700], "it ends too early"),
        (&[b'x'; 1024][..], "it is no tar archive"),
        (&[][..], "it is empty"),
    ] {
        match files(&own)?.unpack(b".", None, &mut &*bad) {
            Err(FilesError::Fault(fault))
                if fault.kind == FaultKind::Archive && fault.reason.contains(reason) => {}
            other => anyhow::bail!("not told that {reason}: {other:?}"),
        }
    }
    own.sh("rm -rf tar")?.ends_with(0)
}

/// What a large file has, in MiB, unless told otherwise.
const LARGE_MIB: u64 = 8;

/// Numbers, without end.
struct Numbers(u64);

impl Read for Numbers {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        for piece in space.chunks_exact_mut(8) {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            piece.copy_from_slice(&self.0.to_le_bytes());
            count += 8;
        }
        Ok(count)
    }
}

fn large(subject: &Subject) -> Result<()> {
    let mib = env::var("SOVEREIGN_CONFORMANCE_MIB").ok();
    let mib = mib.map_or(Ok(LARGE_MIB), |mib| mib.parse())?;
    let own = subject.desk()?.shared()?;
    let here = tempfile::tempdir()?;
    let path = here.path().join("large");
    io::copy(
        &mut Numbers(7).take((mib << 20) | 1),
        &mut File::create(&path)?,
    )?;
    let copied = copy_in(&path, &source(&own), b".", false)?;
    ensure!(copied.bytes > mib << 20, "{copied:?}");
    let back = here.path().join("back");
    copy_out(&source(&own), b"large", &back, false)?;
    ensure!(
        fs::read(&path)? == fs::read(&back)?,
        "other bytes came back"
    );
    own.sh("rm large")?.ends_with(0)
}

fn owned(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    let theirs = archive(&[(owned_header(b'0', b"theirs", b"", 0, (4321, 1234)), b"")]);
    files(&own)?.unpack(b".", None, &mut theirs.as_slice())?;
    own.sh("stat -c %u:%g theirs | grep -qx $(id -u):$(id -g) && echo own; rm theirs")?
        .says("own")?;
    // Somebody else's cannot be made by who is not root, and that is told.
    let kept = files(&own)?.keeping_owners();
    match kept.unpack(b".", None, &mut theirs.as_slice()) {
        Err(FilesError::Fault(fault)) => {
            let told = fault.path == "theirs" && fault.reason.contains("user 4321 and group 1234");
            ensure!(told, "{fault:?}");
        }
        other => anyhow::bail!("not refused: {other:?}"),
    }
    own.sh("test -e theirs || echo none")?.says("none")?;
    own_owner(&own)
}

/// What belongs to the user already can be kept.
fn own_owner(own: &Detached) -> Result<()> {
    let ids = own.sh("id -u; id -g")?.text();
    let (user, group) = ids.split_once('\n').context("no ids")?;
    let ids = (user.parse()?, group.parse()?);
    let ours = archive(&[(owned_header(b'0', b"ours", b"", 0, ids), b"")]);
    let kept = files(own)?.keeping_owners();
    kept.unpack(b".", None, &mut ours.as_slice())?;
    own.sh("rm ours")?.ends_with(0)
}

fn owners(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    let root = || own.files(Some("root".to_owned()));
    let stream = archive(&[
        (owned_header(b'5', b"kept/", b"", 0, (1000, 1000)), b""),
        (owned_header(b'0', b"kept/file", b"", 0, (1000, 0)), b""),
        (
            owned_header(b'2', b"kept/link", b"file", 0, (65_534, 65_534)),
            b"",
        ),
    ]);
    root()?
        .keeping_owners()
        .unpack(b"/tmp", None, &mut stream.as_slice())?;
    let mut out = Vec::new();
    root()?.pack(b"/tmp/kept", b"again", false, &mut out)?;
    root()?
        .keeping_owners()
        .unpack(b"/tmp", None, &mut out.as_slice())?;
    root()?.unpack(b"/tmp/kept", None, &mut out.as_slice())?;
    let list = |folder: &str| {
        own.sh(&format!(
            "cd {folder}; stat -c %u:%g . file link | tr '\\n' ' '"
        ))
    };
    for folder in ["/tmp/kept", "/tmp/again"] {
        list(folder)?.says("1000:1000 1000:0 65534:65534")?;
    }
    list("/tmp/kept/again")?.says("0:0 0:0 0:0")?;
    root()?.remove(b"/tmp/kept", true)?;
    root()?.remove(b"/tmp/again", true)?;
    Ok(())
}
