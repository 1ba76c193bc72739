//! The store against other processes and full disks.

use std::process::Command;
use std::{env, thread};

use super::*;

const LIMIT: Duration = Duration::from_secs(60);

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
    let publisher = format!("{}::publisher_process", module_path!());
    let (_crate, publisher) = publisher.split_once("::").unwrap();
    let mut children: Vec<_> = (0..2)
        .map(|_| {
            Command::new(&test)
                .args(["--exact", publisher])
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
    let last = fs::read(store.find("sandbox").unwrap().rootfs).unwrap();
    assert_eq!(last, [1; 4096], "the publishers published");
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
