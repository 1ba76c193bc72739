//! Whole trees: what happens in them, and how deep they may be.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use agent_client::FilesError;
use agent_protocol::files::ChangeKind;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::agent::Agent;
use crate::files::{bytes, fault, files};

#[test]
fn changes_are_told_as_they_happen() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().to_path_buf();
    let began = Instant::now();
    let mut seen = Vec::new();
    let result = files(&agent).watch(bytes(folder.path()), true, &mut |change| {
        let path = String::from_utf8(change.path.into_vec()).unwrap();
        match (path.as_str(), change.kind) {
            ("", ChangeKind::Attributes) => fs::create_dir(inside.join("sub"))?,
            ("sub", ChangeKind::Created) => fs::write(inside.join("sub/x"), "1")?,
            ("sub/x", ChangeKind::Created) => fs::remove_file(inside.join("sub/x"))?,
            ("sub/x", ChangeKind::Removed) => {
                fs::write(inside.join("last"), "1")?;
                seen.push(path);
                return Err(io::Error::other("enough"));
            }
            _ => {}
        }
        Ok(())
    });
    assert!(matches!(result, Err(FilesError::Io { .. })), "{result:?}");
    assert_eq!(seen, ["sub/x"]);
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn removed_folder_is_told_once() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().to_path_buf();
    fs::create_dir_all(inside.join("a/b")).unwrap();
    let mut removed = Vec::new();
    let result = files(&agent).watch(bytes(folder.path()), true, &mut |change| {
        let path = String::from_utf8(change.path.into_vec()).unwrap();
        match (path.as_str(), change.kind) {
            ("", ChangeKind::Attributes) => {
                fs::remove_dir_all(inside.join("a"))?;
                fs::write(inside.join("last"), "1")?;
            }
            ("last", ChangeKind::Created) => return Err(io::Error::other("enough")),
            (_, ChangeKind::Removed) => removed.push(path),
            _ => {}
        }
        Ok(())
    });
    assert!(matches!(result, Err(FilesError::Io { .. })), "{result:?}");
    assert_eq!(removed, ["a/b", "a"]);
}

#[test]
fn moved_folder_is_told_of_where_it_is() {
    let agent = Agent::start();
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (inside, outside) = (folder.path().to_path_buf(), elsewhere.path().join("out"));
    fs::create_dir_all(inside.join("a/sub")).unwrap();
    let mut seen = Vec::new();
    let result = files(&agent).watch(bytes(folder.path()), true, &mut |change| {
        let path = String::from_utf8(change.path.into_vec()).unwrap();
        match (path.as_str(), change.kind) {
            ("", ChangeKind::Attributes) => fs::rename(inside.join("a"), inside.join("b"))?,
            ("b/sub", ChangeKind::Created) => fs::write(inside.join("b/sub/x"), "1")?,
            ("b/sub/x", ChangeKind::Created) => fs::rename(inside.join("b"), &outside)?,
            ("b", ChangeKind::Removed) => fs::create_dir(inside.join("next"))?,
            ("next", ChangeKind::Created) => {
                fs::write(outside.join("sub/y"), "1")?;
                fs::write(inside.join("last"), "1")?;
            }
            ("last", ChangeKind::Created) => return Err(io::Error::other("enough")),
            _ => {}
        }
        if change.kind == ChangeKind::Created {
            seen.push(path);
        }
        Ok(())
    });
    assert!(matches!(result, Err(FilesError::Io { .. })), "{result:?}");
    assert_eq!(seen, ["b", "b/sub", "b/sub/x", "next"]);
}

#[test]
fn deep_trees_are_searched_and_removed() {
    let agent = Agent::start();
    // What a user has who has not asked for more.
    let pid = Pid::from_raw(agent.pid().try_into().unwrap());
    let few = Rlimit {
        current: Some(1024),
        ..getrlimit(Resource::Nofile)
    };
    prlimit(pid, Resource::Nofile, few).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path().join("d");
    let deepest = folder.path().join(vec!["d"; 1500].join("/"));
    fs::create_dir_all(&deepest).unwrap();
    fs::write(deepest.join("x"), "1").unwrap();
    let mut found = Vec::new();
    files(&agent)
        .find(bytes(&top), Some(b"x"), None, &mut |entry| {
            found.push(entry.path.len());
            Ok(())
        })
        .unwrap();
    assert_eq!(found, [2 * 1499 + 1]);
    let refused = fault(files(&agent).pack(bytes(&top), b"d", false, &mut io::sink()));
    assert!(refused.path.starts_with(top.to_str().unwrap()), "{refused}");
    assert!(refused.reason.contains("512 folders"), "{refused}");
    files(&agent).remove(bytes(&top), true).unwrap();
    assert!(!top.exists());
}

#[test]
fn too_long_a_path_is_told_behind_what_was_found() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x"), "1").unwrap();
    let name = "d".repeat(250);
    let half = folder.path().join([name.as_str(); 8].join("/"));
    fs::create_dir_all(&half).unwrap();
    // Longer than a path may be, and made from where one is.
    let script = format!(
        "cd \"$1\" && mkdir -p {0} && cd -P {0} && mkdir -p {0}",
        [name.as_str(); 8].join("/")
    );
    let made = std::process::Command::new("sh")
        .args(["-c", &script, "sh"])
        .arg(&half)
        .status()
        .unwrap();
    assert!(made.success());
    let mut found = Vec::new();
    let refused = fault(
        files(&agent).find(bytes(folder.path()), Some(b"x"), None, &mut |entry| {
            found.push(entry.path.into_vec());
            Ok(())
        }),
    );
    assert_eq!(found, [b"x"]);
    assert!(refused.reason.contains("too long"), "{refused}");
    let refused = fault(files(&agent).watch(bytes(folder.path()), true, &mut |_| Ok(())));
    assert!(refused.reason.contains("too long"), "{refused}");
    files(&agent)
        .remove(bytes(&folder.path().join(&name)), true)
        .unwrap();
}
