//! The store: what is put in comes out.

mod candidate;
mod crowd;
mod damage;

use std::sync::Mutex;

use rustix::fs::FlockOperation;

use super::*;
use crate::manifest::Discovery;
use crate::progress::{Event, Progress, Silent};

struct Fixture {
    _folder: tempfile::TempDir,
    store: Store,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store")).unwrap();
    Fixture {
        _folder: folder,
        store,
    }
}

fn description() -> Description {
    Description {
        kernel_release: Some("6.12.0".to_owned()),
        cmdline: "console=ttyS0".to_owned(),
        discovery: Discovery::CommandLine,
        agent_release: "0.1.0".to_owned(),
        agent_protocol: Some(1),
        contents: None,
    }
}

fn parts<'a>(kernel: &'a [u8], initramfs: &'a [u8], rootfs: &'a [u8]) -> Parts<'a> {
    Parts {
        kernel: Content::Bytes(kernel),
        initramfs: Content::Bytes(initramfs),
        rootfs: Content::Bytes(rootfs),
        description: description(),
    }
}

fn publish(store: &Store, name: &str, rootfs: &[u8]) -> Result<Image, StoreError> {
    let step = Step::begin(&Silent, "storing");
    store.publish(name, &parts(b"kernel", b"initramfs", rootfs), &step)
}

fn blob_count(store: &Store) -> usize {
    fs::read_dir(store.blobs()).unwrap().count()
}

fn tmp_count(store: &Store) -> usize {
    fs::read_dir(store.tmp()).unwrap().count()
}

#[test]
fn published_image_is_found_with_its_content() {
    let Fixture { store, _folder } = fixture();
    let image = publish(&store, "sandbox", b"rootfs").unwrap();
    assert_eq!(store.find("sandbox").unwrap(), image);
    assert_eq!(store.verify("sandbox").unwrap(), image);
    assert_eq!(fs::read(&image.kernel).unwrap(), b"kernel");
    assert_eq!(fs::read(&image.initramfs).unwrap(), b"initramfs");
    assert_eq!(fs::read(&image.rootfs).unwrap(), b"rootfs");
    assert_eq!(image.cmdline, "console=ttyS0");
    assert_eq!(image.discovery, "command-line");
    let manifest = fs::read(store.manifest_path("sandbox")).unwrap();
    assert_eq!(image.id, Digest::of(&manifest).to_hex());
    assert_eq!(tmp_count(&store), 0);
}

#[test]
fn missing_image_names_the_command_that_builds_it() {
    let Fixture { store, _folder } = fixture();
    let error = store.find("sandbox").unwrap_err();
    assert!(matches!(error, StoreError::NoSuchImage { .. }));
    assert!(
        error.to_string().contains("sovereign image build"),
        "{error}"
    );
    let error = store.find("other").unwrap_err().to_string();
    assert!(
        error.contains("sovereign image build --name other"),
        "{error}"
    );
    assert!(!store.root().exists(), "looking makes nothing");
}

#[test]
fn names_that_would_leave_the_store_are_refused() {
    let Fixture { store, _folder } = fixture();
    for name in [
        "",
        "../x",
        "a/b",
        ".hidden",
        "-f",
        "A",
        "a b",
        "a\0",
        &"a".repeat(65),
    ] {
        let error = store.find(name).unwrap_err();
        assert!(
            matches!(error, StoreError::BadName { .. }),
            "{name:?}: {error}"
        );
        assert!(publish(&store, name, b"").is_err());
        assert!(store.remove(name).is_err());
    }
    assert!(publish(&store, "a.b_c-1", b"").is_ok());
}

#[test]
fn removing_an_image_keeps_what_others_share() {
    let Fixture { store, _folder } = fixture();
    publish(&store, "one", b"rootfs of one").unwrap();
    publish(&store, "two", b"rootfs of two").unwrap();
    assert_eq!(blob_count(&store), 4);
    let freed = store.remove("one").unwrap();
    assert_eq!(freed, 13);
    assert_eq!(blob_count(&store), 3);
    assert!(store.find("two").is_ok());
    assert!(matches!(
        store.find("one").unwrap_err(),
        StoreError::NoSuchImage { .. }
    ));
}

#[test]
fn prune_removes_leftovers_and_spares_files_in_use() {
    let Fixture { store, _folder } = fixture();
    let old = publish(&store, "sandbox", b"old rootfs").unwrap();
    publish(&store, "sandbox", b"rootfs").unwrap();
    fs::write(store.tmp().join("left"), [0; 100]).unwrap();
    // As a virtual machine has its disks.
    let running = fs::File::open(&old.rootfs).unwrap();
    rustix::fs::flock(&running, FlockOperation::NonBlockingLockShared).unwrap();
    assert_eq!(store.prune().unwrap(), 100);
    assert!(old.rootfs.exists());
    drop(running);
    assert_eq!(store.prune().unwrap(), 10);
    assert!(!old.rootfs.exists());
    assert_eq!(store.prune().unwrap(), 0);
    assert!(store.find("sandbox").is_ok());
}

#[test]
fn prune_of_no_store_frees_nothing() {
    let Fixture { store, _folder } = fixture();
    assert_eq!(store.prune().unwrap(), 0);
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn unfinished_source_file_is_named() {
    let Fixture { store, _folder } = fixture();
    let mut parts = parts(b"kernel", b"initramfs", b"");
    parts.rootfs = Content::File {
        path: Path::new("/nonexistent/rootfs"),
        digest: None,
    };
    let step = Step::begin(&Silent, "storing");
    let error = store.publish("sandbox", &parts, &step).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/rootfs"), "{error}");
    assert_eq!(tmp_count(&store), 0);
}

#[test]
fn copying_reports_how_far_it_is() {
    #[derive(Debug)]
    struct Last(Mutex<(u64, Option<u64>)>);
    impl Progress for Last {
        fn report(&self, event: &Event<'_>) {
            if let Event::Advanced { current, total, .. } = event {
                *self.0.lock().unwrap() = (*current, *total);
            }
        }
    }
    let Fixture { store, _folder } = fixture();
    let last = Last(Mutex::new((0, None)));
    let step = Step::begin(&last, "storing");
    let rootfs = vec![7; 3 << 20];
    store
        .publish("sandbox", &parts(b"k", b"i", &rootfs), &step)
        .unwrap();
    assert_eq!(
        *last.0.lock().unwrap(),
        ((3 << 20) + 2, Some((3 << 20) + 2))
    );
}
