//! Operations on files, asked for from outside: what they do, and what they refuse.

use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use sovereign::files::{ChangeKind, FaultKind, FileEntry, FileFault, FileKind};
use sovereign::{Detached, FilesError};

use crate::desk::files;
use crate::facts::Need;
use crate::subject::{Runs, Subject, wait_until};
use crate::suite::{Suite, case, needing};

pub(crate) fn add(suite: &mut Suite) {
    suite.add(
        "operations",
        [
            case("data_is_written_and_read_whole_and_in_parts", data),
            case("folders_are_made_listed_moved_and_removed", folders),
            case("names_are_bytes", names),
            case("files_are_found_by_name_and_content", find),
            case("changes_are_told_as_they_happen", watch),
            case("faults_name_file_and_reason", faults),
            needing("rights_are_those_of_the_user", &[Need::OwnAccount], rights),
            needing(
                "other_users_have_their_rights",
                &[Need::OtherUsers],
                roots_rights,
            ),
        ],
    );
}

/// What the sandbox says of something that it cannot do.
pub(crate) fn fault<T>(result: Result<T, FilesError>) -> Result<FileFault> {
    match result {
        Err(FilesError::Fault(fault)) => Ok(fault),
        Err(error) => bail!("no fault of a file: {error:?}"),
        Ok(_) => bail!("it was done"),
    }
}

pub(crate) fn write(sandbox: &Detached, path: &[u8], mut data: &[u8]) -> Result<()> {
    files(sandbox)?.write(path, None, &mut data)?;
    Ok(())
}

pub(crate) fn read(sandbox: &Detached, path: &[u8]) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    files(sandbox)?.read(path, 0, None, &mut data)?;
    Ok(data)
}

fn list(sandbox: &Detached, path: &[u8]) -> Result<Vec<FileEntry>> {
    let mut found = Vec::new();
    files(sandbox)?.list(path, &mut |entry| {
        found.push(entry);
        Ok(())
    })?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn data(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(700_001).collect();
    let written = files(&own)?.write(b"data", Some(0o640), &mut bytes.as_slice())?;
    ensure!(written.bytes == 700_001, "{written:?}");
    ensure!(read(&own, b"data")? == bytes, "other bytes came back");
    own.sh("wc -c < data; stat -c %a data; stat -c %u data | grep -qx $(id -u) && echo own")?
        .says("700001\n640\nown")?;
    let mut part = Vec::new();
    files(&own)?.read(b"data", 600_000, Some(5), &mut part)?;
    ensure!(part == bytes[600_000..600_005], "{part:?}");
    // Mode and link stay.
    own.sh("chmod 600 data; ln -sf data to-data")?
        .ends_with(0)?;
    write(&own, b"to-data", b"new")?;
    own.sh("cat data; echo; stat -c %a data; readlink to-data; rm data to-data")?
        .says("new\n600\ndata")
}

fn folders(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    files(&own)?.make_directory(b"made/deep", true, Some(0o750))?;
    write(&own, b"made/deep/file", b"12345")?;
    own.sh("ln -s file made/deep/link; mkfifo made/deep/pipe")?
        .ends_with(0)?;
    let found = list(&own, b"made/deep")?;
    let seen: Vec<_> = found
        .iter()
        .map(|entry| (entry.path.as_slice(), entry.kind))
        .collect();
    let expected: [(&[u8], FileKind); 3] = [
        (b"file", FileKind::File),
        (b"link", FileKind::Symlink),
        (b"pipe", FileKind::Fifo),
    ];
    ensure!(seen == expected, "{found:?}");
    ensure!(found[0].size == 5 && found[0].mode == 0o644, "{found:?}");
    ensure!(
        found[1]
            .target
            .as_ref()
            .is_some_and(|it| it.as_slice() == b"file"),
        "{found:?}"
    );
    let stat = files(&own)?.stat(b"made/deep/link", true)?;
    ensure!(stat.kind == FileKind::File && stat.size == 5, "{stat:?}");
    files(&own)?.rename(b"made/deep", b"made/moved")?;
    let refused = fault(files(&own)?.remove(b"made/moved", false))?;
    ensure!(refused.kind == FaultKind::IsADirectory, "{refused:?}");
    files(&own)?.remove(b"made", true)?;
    let gone = fault(files(&own)?.stat(b"made", false))?;
    ensure!(gone.kind == FaultKind::NotFound, "{gone:?}");
    Ok(())
}

fn names(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    files(&own)?.make_directory(b"odd", true, None)?;
    let odd: [&[u8]; 6] = [
        b" ",
        b"-rf",
        b"*",
        b"a\nb",
        b"a \xe4\xff",
        "\u{e4}\u{1f600}".as_bytes(),
    ];
    for name in odd {
        write(&own, &[b"odd/", name].concat(), name)?;
    }
    let mut expected = odd.map(<[u8]>::to_vec);
    expected.sort();
    let found: Vec<_> = list(&own, b"odd")?
        .into_iter()
        .map(|entry| entry.path.into_vec())
        .collect();
    ensure!(found == expected, "{found:?}");
    for name in odd {
        ensure!(read(&own, &[b"odd/", name].concat())? == name, "{name:?}");
    }
    let long = vec![b'n'; 255];
    write(&own, &[b"odd/", long.as_slice()].concat(), b"")?;
    let refused = fault(files(&own)?.write(&vec![b'n'; 256], None, &mut &b""[..]))?;
    ensure!(refused.reason.contains("too long"), "{refused:?}");
    own.sh("ls -A odd | wc -l; rm -r odd")?.says("8")
}

fn find(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    let script = "mkdir -p tree/src/deep && cd tree && echo 'a needle here' > src/one.rs && \
                  echo needle > src/deep/two.py && echo hay > src/deep/three.rs && ln -s src link";
    own.sh(script)?.ends_with(0)?;
    let find = |name: Option<&str>, contains: Option<&str>| {
        let mut found = Vec::new();
        let [name, contains] = [name, contains].map(|text| text.map(str::as_bytes));
        files(&own)?.find(b"tree", name, contains, &mut |entry| {
            found.push(String::from_utf8_lossy(&entry.path).into_owned());
            Ok(())
        })?;
        found.sort();
        Ok::<_, anyhow::Error>(found.join(" "))
    };
    let all = "link src src/deep src/deep/three.rs src/deep/two.py src/one.rs";
    for (name, contains, expected) in [
        (None, None, all),
        (Some("*.rs"), None, "src/deep/three.rs src/one.rs"),
        (None, Some("needle"), "src/deep/two.py src/one.rs"),
        (
            Some("*.{rs,py}"),
            Some("needle"),
            "src/deep/two.py src/one.rs",
        ),
        (Some("src/*/*.rs"), None, "src/deep/three.rs"),
        (Some("nothing*"), None, ""),
    ] {
        let found = find(name, contains)?;
        ensure!(found == expected, "{name:?} {contains:?}: {found:?}");
    }
    let refused = find(Some("[a"), None);
    ensure!(refused.is_err(), "a pattern that is none: {refused:?}");
    own.sh("rm -r tree")?.ends_with(0)
}

fn watch(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    files(&own)?.make_directory(b"watched/sub", true, None)?;
    let watching = files(&own)?;
    let seen = Mutex::new(Vec::new());
    let told = |path: &str, kind| {
        let seen = seen
            .lock()
            .map(|seen: std::sync::MutexGuard<'_, Vec<_>>| seen.clone());
        seen.is_ok_and(|seen| seen.contains(&(path.to_owned(), kind)))
    };
    thread::scope(|scope| {
        let ended = scope.spawn(|| {
            watching.watch(b"watched", true, &mut |change| {
                let path = String::from_utf8_lossy(&change.path).into_owned();
                let is_last = path == "last";
                if let Ok(mut seen) = seen.lock() {
                    seen.push((path, change.kind));
                }
                match is_last {
                    true => Err(std::io::ErrorKind::Interrupted.into()),
                    false => Ok(()),
                }
            })
        });
        let changed = wait_until("it watches", || Ok(told("", ChangeKind::Attributes)))
            .and_then(|()| own.sh("cd watched; echo x > sub/new; rm sub/new; echo > last"))
            .and_then(|ended| ended.ends_with(0));
        if changed.is_err() {
            own.kill()?;
        }
        let ended = ended.join().ok().context("a thread panicked")?;
        ensure!(ended.is_err(), "it ended by itself");
        changed
    })?;
    for kind in [
        ChangeKind::Created,
        ChangeKind::Modified,
        ChangeKind::Removed,
    ] {
        ensure!(told("sub/new", kind), "{kind:?}: {seen:?}");
    }
    own.sh("rm -r watched")?.ends_with(0)
}

fn faults(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    own.sh("mkdir -p faults/full/x; echo x > faults/file")?
        .ends_with(0)?;
    let mut none = Vec::new();
    let empty = || &b""[..];
    let found = [
        (
            fault(files(&own)?.read(b"/no/such", 0, None, &mut none))?,
            "/no/such",
            FaultKind::NotFound,
        ),
        (
            fault(files(&own)?.read(b"faults", 0, None, &mut none))?,
            "faults",
            FaultKind::IsADirectory,
        ),
        (
            fault(files(&own)?.write(b"faults", None, &mut empty()))?,
            "faults",
            FaultKind::IsADirectory,
        ),
        (
            fault(files(&own)?.write(b"faults/no/x", None, &mut empty()))?,
            "faults/no/x",
            FaultKind::NotFound,
        ),
        (
            fault(files(&own)?.write(b"faults/file/x", None, &mut empty()))?,
            "faults/file/x",
            FaultKind::NotADirectory,
        ),
        (
            fault(files(&own)?.make_directory(b"faults/file", false, None))?,
            "faults/file",
            FaultKind::Exists,
        ),
        (
            fault(files(&own)?.rename(b"faults/none", b"faults/x"))?,
            "faults/none",
            FaultKind::NotFound,
        ),
        (
            fault(files(&own)?.remove(b"faults/none", true))?,
            "faults/none",
            FaultKind::NotFound,
        ),
        (
            fault(files(&own)?.list(b"faults/file", &mut |_| Ok(())))?,
            "faults/file",
            FaultKind::NotADirectory,
        ),
        (
            fault(files(&own)?.unpack(b"faults/none", None, &mut empty()))?,
            "faults/none",
            FaultKind::NotFound,
        ),
        (
            fault(files(&own)?.pack(b"faults/none", b"x", false, &mut none))?,
            "faults/none",
            FaultKind::NotFound,
        ),
        (
            fault(files(&own)?.watch(b"faults/none", false, &mut |_| Ok(())))?,
            "faults/none",
            FaultKind::NotFound,
        ),
    ];
    for (fault, path, kind) in found {
        let told = fault.path == path && fault.kind == kind && !fault.reason.is_empty();
        ensure!(told, "{fault:?} is not {kind:?} of {path}");
    }
    own.sh("rm -r faults")?.ends_with(0)
}

fn rights(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    let script = "mkdir -p shut/in; echo x > shut/in/file; chmod 500 shut/in; echo x > sealed; chmod 0 sealed";
    own.sh(script)?.ends_with(0)?;
    let mut none = Vec::new();
    for found in [
        fault(files(&own)?.read(b"sealed", 0, None, &mut none))?,
        fault(files(&own)?.write(b"sealed", None, &mut &b"new"[..]))?,
        fault(files(&own)?.write(b"shut/in/new", None, &mut &b"new"[..]))?,
        fault(files(&own)?.remove(b"shut/in/file", false))?,
        fault(files(&own)?.pack(b"sealed", b"x", false, &mut none))?,
    ] {
        ensure!(found.kind == FaultKind::PermissionDenied, "{found:?}");
        ensure!(
            found.path == "sealed" || found.path.starts_with("shut/in/"),
            "{found:?}"
        );
    }
    own.sh("chmod 600 sealed; cat sealed; chmod 700 shut/in; ls shut/in; rm -r shut sealed")?
        .says("x\nfile")
}

fn roots_rights(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.shared()?;
    let root = || own.files(Some("root".to_owned()));
    root()?.write(b"/tmp/root-only", Some(0o600), &mut &b"secret"[..])?;
    let mut data = Vec::new();
    let refused = fault(files(&own)?.read(b"/tmp/root-only", 0, None, &mut data))?;
    ensure!(refused.kind == FaultKind::PermissionDenied, "{refused:?}");
    root()?.read(b"/tmp/root-only", 0, None, &mut data)?;
    ensure!(data == b"secret");
    let stat = files(&own)?.stat(b"/tmp/root-only", false)?;
    ensure!((stat.uid, stat.gid, stat.mode) == (0, 0, 0o600), "{stat:?}");
    root()?.remove(b"/tmp/root-only", false)?;
    Ok(())
}
