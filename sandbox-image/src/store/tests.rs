//! The store against damage, crowds and full disks.

use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Mutex;
use std::{env, thread};

use super::*;
use crate::manifest::Discovery;
use crate::progress::{Event, Progress, Silent};

const LIMIT: Duration = Duration::from_secs(60);

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

/// Changes a file in spite of its mode.
fn overwrite(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

fn damage(error: StoreError) -> Damage {
    match error {
        StoreError::Corrupt { damage, .. } => *damage,
        other => panic!("not found damaged: {other}"),
    }
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
fn truncated_file_is_refused_with_both_lengths() {
    let Fixture { store, _folder } = fixture();
    let image = publish(&store, "sandbox", b"rootfs").unwrap();
    overwrite(&image.rootfs, b"root");
    let expected = Damage::Size {
        expected: 6,
        actual: 4,
    };
    assert_eq!(damage(store.find("sandbox").unwrap_err()), expected);
}

#[test]
fn flipped_bit_is_refused_with_both_hashes_and_the_remedy() {
    let Fixture { store, _folder } = fixture();
    let image = publish(&store, "sandbox", b"rootfs").unwrap();
    overwrite(&image.rootfs, b"rootfr");
    let error = store.find("sandbox").unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&Digest::of(b"rootfs").to_hex()), "{text}");
    assert!(text.contains(&Digest::of(b"rootfr").to_hex()), "{text}");
    assert!(text.contains(&image.rootfs.display().to_string()), "{text}");
    assert!(text.contains("sovereign image rm sandbox"), "{text}");
    assert!(matches!(damage(error), Damage::Content { .. }));
}

#[test]
fn flipped_bit_is_found_even_when_the_modification_time_is_set_back() {
    let Fixture { store, _folder } = fixture();
    let image = publish(&store, "sandbox", b"rootfs").unwrap();
    let modified = fs::metadata(&image.rootfs).unwrap().modified().unwrap();
    overwrite(&image.rootfs, b"rootfr");
    let file = fs::File::options().write(true).open(&image.rootfs).unwrap();
    file.set_modified(modified).unwrap();
    assert!(matches!(
        damage(store.find("sandbox").unwrap_err()),
        Damage::Content { .. }
    ));
}

#[test]
fn replaced_file_with_the_same_content_is_accepted() {
    let Fixture { store, _folder } = fixture();
    let image = publish(&store, "sandbox", b"rootfs").unwrap();
    fs::remove_file(&image.rootfs).unwrap();
    fs::write(&image.rootfs, b"rootfs").unwrap();
    assert_eq!(store.find("sandbox").unwrap(), image);
}

#[test]
fn missing_file_is_refused() {
    let Fixture { store, _folder } = fixture();
    let image = publish(&store, "sandbox", b"rootfs").unwrap();
    fs::remove_file(&image.kernel).unwrap();
    assert_eq!(damage(store.find("sandbox").unwrap_err()), Damage::Missing);
}

#[test]
fn link_in_place_of_a_file_is_refused() {
    let Fixture { store, _folder } = fixture();
    let image = publish(&store, "sandbox", b"rootfs").unwrap();
    let elsewhere = store.root().join("elsewhere");
    fs::rename(&image.rootfs, &elsewhere).unwrap();
    symlink(&elsewhere, &image.rootfs).unwrap();
    assert_eq!(damage(store.find("sandbox").unwrap_err()), Damage::NotAFile);
    fs::remove_file(&image.rootfs).unwrap();
    fs::create_dir(&image.rootfs).unwrap();
    assert_eq!(damage(store.find("sandbox").unwrap_err()), Damage::NotAFile);
}

#[test]
fn file_that_others_may_write_to_is_refused() {
    let Fixture { store, _folder } = fixture();
    let image = publish(&store, "sandbox", b"rootfs").unwrap();
    fs::set_permissions(&image.rootfs, fs::Permissions::from_mode(0o666)).unwrap();
    let error = store.find("sandbox").unwrap_err();
    assert!(matches!(error, StoreError::Insecure { .. }), "{error}");
    fs::set_permissions(&image.rootfs, fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(store.find("sandbox").unwrap(), image);
}

#[test]
fn store_that_others_may_write_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = Store::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("chmod go-w"), "{error}");
}

#[test]
fn unreadable_file_is_an_error_that_names_it() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root reads every file");
        return;
    }
    let Fixture { store, _folder } = fixture();
    let image = publish(&store, "sandbox", b"rootfs").unwrap();
    fs::set_permissions(&image.rootfs, fs::Permissions::from_mode(0o000)).unwrap();
    let error = store.find("sandbox").unwrap_err();
    assert!(error.to_string().contains("cannot read"), "{error}");
}

#[test]
fn damaged_manifest_is_refused_listed_and_removable() {
    let Fixture { store, _folder } = fixture();
    publish(&store, "sandbox", b"rootfs").unwrap();
    publish(&store, "other", b"other rootfs").unwrap();
    fs::write(store.manifest_path("sandbox"), b"{\"schema\": 1").unwrap();
    let error = store.find("sandbox").unwrap_err();
    assert!(matches!(error, StoreError::BadManifest { .. }), "{error}");
    let list = store.list().unwrap();
    assert_eq!(list.len(), 2);
    assert!(list[0].problem.is_none() && list[1].problem.is_some());
    assert!(store.prune().is_err(), "what the image needs is not known");
    assert_eq!(blob_count(&store), 4);
    store.remove("sandbox").unwrap();
    assert_eq!(blob_count(&store), 3);
    assert!(store.find("other").is_ok());
}

#[test]
fn manifest_changed_in_place_changes_the_identity() {
    let Fixture { store, _folder } = fixture();
    let before = publish(&store, "sandbox", b"rootfs").unwrap();
    let path = store.manifest_path("sandbox");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("console=ttyS0", "console=ttyS1")).unwrap();
    let after = store.find("sandbox").unwrap();
    assert_ne!(after.id, before.id);
    assert_eq!(after.cmdline, "console=ttyS1");
}

#[test]
fn damaged_record_only_costs_another_look() {
    let Fixture { store, _folder } = fixture();
    let image = publish(&store, "sandbox", b"rootfs").unwrap();
    fs::write(store.record_path("sandbox"), b"nonsense").unwrap();
    assert_eq!(store.find("sandbox").unwrap(), image);
    assert!(store.read_record("sandbox").is_some(), "recorded again");
}

#[test]
fn recorded_verification_spares_the_hash() {
    let Fixture { store, _folder } = fixture();
    let image = publish(&store, "sandbox", b"rootfs").unwrap();
    assert_eq!(store.find_recorded("sandbox"), Some(image.clone()));
    overwrite(&image.initramfs, b"INITRAMFS");
    assert_eq!(store.find_recorded("sandbox"), None);
}

#[test]
fn publishing_heals_a_damaged_file() {
    let Fixture { store, _folder } = fixture();
    let image = publish(&store, "sandbox", b"rootfs").unwrap();
    overwrite(&image.rootfs, b"r00tfs");
    publish(&store, "sandbox", b"rootfs").unwrap();
    assert_eq!(fs::read(&image.rootfs).unwrap(), b"rootfs");
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
fn prune_removes_leftovers_and_spares_open_files() {
    let Fixture { store, _folder } = fixture();
    let old = publish(&store, "sandbox", b"old rootfs").unwrap();
    publish(&store, "sandbox", b"rootfs").unwrap();
    fs::write(store.tmp().join("left"), [0; 100]).unwrap();
    let running = fs::File::open(&old.rootfs).unwrap();
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
fn source_that_is_not_what_was_meant_is_refused() {
    let Fixture { store, _folder } = fixture();
    let source = store.root().with_extension("source");
    fs::write(&source, b"rootfs").unwrap();
    let mut parts = parts(b"kernel", b"initramfs", b"");
    parts.rootfs = Content::File {
        path: &source,
        digest: Some(Digest::of(b"another")),
    };
    let step = Step::begin(&Silent, "storing");
    let error = store.publish("sandbox", &parts, &step).unwrap_err();
    assert!(matches!(error, StoreError::BadSource { .. }), "{error}");
    assert!(store.find("sandbox").is_err());
    assert_eq!(tmp_count(&store), 0);
}

#[test]
fn copying_reports_how_far_it_is() {
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

/// Started again by `two_processes_publish_at_once` as another process.
#[test]
fn publisher_process() {
    let Some(root) = env::var_os("SANDBOX_IMAGE_TEST_STORE") else {
        return;
    };
    let store = Store::open(root).unwrap();
    for round in 0..20_u8 {
        let rootfs = [round % 2; 4096];
        publish(&store, "sandbox", &rootfs).unwrap();
    }
}

#[test]
fn two_processes_publish_at_once() {
    let Fixture { store, _folder } = fixture();
    publish(&store, "sandbox", &[0; 4096]).unwrap();
    let test = env::current_exe().unwrap();
    let mut children: Vec<_> = (0..2)
        .map(|_| {
            Command::new(&test)
                .args(["--exact", "store::tests::publisher_process"])
                .env("SANDBOX_IMAGE_TEST_STORE", store.root())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let start = std::time::Instant::now();
    let mut found = 0;
    while children
        .iter_mut()
        .any(|child| child.try_wait().unwrap().is_none())
    {
        assert!(start.elapsed() < LIMIT);
        let image = store.find("sandbox").unwrap();
        let rootfs = fs::read(&image.rootfs).unwrap();
        assert_eq!(rootfs.len(), 4096);
        found += 1;
    }
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    assert!(found > 0);
    assert_eq!(tmp_count(&store), 0);
    store.verify("sandbox").unwrap();
}

#[test]
fn removal_waits_for_a_publisher() {
    let Fixture { store, _folder } = fixture();
    publish(&store, "sandbox", b"rootfs").unwrap();
    let step = Step::begin(&Silent, "holding");
    let lock = store.lock("testing", &step).unwrap();
    thread::scope(|scope| {
        let removal = scope.spawn(|| store.remove("sandbox"));
        thread::sleep(Duration::from_millis(100));
        assert!(store.find("sandbox").is_ok(), "readers do not wait");
        drop(lock);
        removal.join().unwrap().unwrap();
    });
    assert!(store.find("sandbox").is_err());
}

/// A small file system of its own, taken down with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={size},mode=0700"))
            .arg("tmpfs")
            .arg(folder.path())
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn full_disk_is_told_with_numbers_and_leaves_nothing() {
    let Some(disk) = SmallDisk::mount("2m") else {
        eprintln!("skipped: mounting a small disk takes root");
        return;
    };
    let store = Store::open(disk.0.path().join("store")).unwrap();
    let error = publish(&store, "sandbox", &vec![1; 4 << 20]).unwrap_err();
    let StoreError::NoSpace {
        needed, available, ..
    } = &error
    else {
        panic!("{error}");
    };
    assert!(*needed >= 4 << 20 && *available <= 2 << 20, "{error}");
    assert_eq!((blob_count(&store), tmp_count(&store)), (0, 0));
    publish(&store, "sandbox", b"a small one fits").unwrap();
}

#[test]
fn disk_that_fills_up_during_the_copy_is_told_and_leaves_nothing() {
    let Some(disk) = SmallDisk::mount("2m") else {
        eprintln!("skipped: mounting a small disk takes root");
        return;
    };
    let store = Store::open(disk.0.path().join("store")).unwrap();
    let step = Step::begin(&Silent, "storing");
    let _lock = store.lock("testing", &step).unwrap();
    let growing = disk.0.path().join("other");
    fs::write(&growing, vec![0; 1 << 20]).unwrap();
    let error = store.store_for_test(&vec![1; 2 << 20], &step).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    assert_eq!((blob_count(&store), tmp_count(&store)), (0, 0));
}
