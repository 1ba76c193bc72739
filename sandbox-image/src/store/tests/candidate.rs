//! Candidates: what is refused leaves everything as it was.

use super::*;

fn publish_if(
    store: &Store,
    rootfs: &[u8],
    examine: impl FnOnce(&Image) -> Result<(), StoreError>,
) -> Result<Image, StoreError> {
    let step = Step::begin(&Silent, "storing");
    store.publish_if(
        "sandbox",
        &parts(b"kernel", b"initramfs", rootfs),
        step,
        examine,
    )
}

fn refusal() -> StoreError {
    StoreError::NoPlace
}

#[test]
fn an_accepted_candidate_becomes_the_image() {
    let fixture = fixture();
    let store = &fixture.store;
    publish(store, "sandbox", b"old").unwrap();
    let image = publish_if(store, b"new", |candidate| {
        // It can be used under its own name, and the old one under the other.
        assert_eq!(store.find(&candidate.name).unwrap().id, candidate.id);
        let old = store.find("sandbox").unwrap();
        assert_eq!(fs::read(old.rootfs).unwrap(), b"old");
        assert_eq!(store.list().unwrap().len(), 1);
        Ok(())
    });
    let image = image.unwrap();
    assert_eq!(
        (image.name.as_str(), store.find("sandbox").unwrap()),
        ("sandbox", image.clone())
    );
    assert_eq!(fs::read(image.rootfs).unwrap(), b"new");
    assert_eq!(store.names().unwrap(), ["sandbox"]);
}

#[test]
fn what_is_stored_is_not_copied_again() {
    let fixture = fixture();
    let store = &fixture.store;
    publish_if(store, b"rootfs", |_| Ok(())).unwrap();
    let copied = Copied(Mutex::new(None));
    let step = Step::begin(&copied, "storing");
    let parts = parts(b"other kernel", b"initramfs", b"rootfs");
    let image = store.publish_if("sandbox", &parts, step, |_| Ok::<_, StoreError>(()));
    assert_eq!(
        *copied.0.lock().unwrap(),
        Some(b"other kernel".len() as u64)
    );
    // Nor where nobody has said that it is whole.
    fs::remove_file(store.record_path("sandbox")).unwrap();
    let copied = Copied(Mutex::new(None));
    let step = Step::begin(&copied, "storing");
    let again = store.publish_if("sandbox", &parts, step, |_| Ok::<_, StoreError>(()));
    assert_eq!(*copied.0.lock().unwrap(), None);
    assert_eq!(again.unwrap().rootfs, image.unwrap().rootfs);
}

/// How many bytes were to be copied.
#[derive(Debug)]
struct Copied(Mutex<Option<u64>>);

impl Progress for Copied {
    fn report(&self, event: &Event<'_>) {
        if let Event::Advanced { total, .. } = event {
            *self.0.lock().unwrap() = *total;
        }
    }
}

#[test]
fn a_refused_candidate_leaves_what_was_there() {
    let fixture = fixture();
    let store = &fixture.store;
    let old = publish(store, "sandbox", b"old").unwrap();
    let blobs = blob_count(store);
    publish_if(store, b"new", |_| Err(refusal())).unwrap_err();
    assert_eq!(store.find("sandbox").unwrap(), old);
    assert_eq!(store.names().unwrap(), ["sandbox"]);
    assert_eq!(blob_count(store), blobs);
}

#[test]
fn an_abandoned_candidate_is_pruned_and_an_examined_one_is_not() {
    let fixture = fixture();
    let store = &fixture.store;
    publish(store, "sandbox.candidate", b"left").unwrap();
    publish_if(store, b"new", |candidate| {
        store.prune()?;
        store.find(&candidate.name).map(|_| ())
    })
    .unwrap();
    publish(store, "other.candidate", b"left").unwrap();
    store.prune().unwrap();
    assert_eq!(store.names().unwrap(), ["sandbox"]);
    assert_eq!(blob_count(store), 3);
}

#[test]
fn nothing_is_built_under_a_candidates_name() {
    let fixture = fixture();
    let step = Step::begin(&Silent, "storing");
    let parts = parts(b"kernel", b"initramfs", b"r");
    let accept = |_: &Image| Ok::<_, StoreError>(());
    let error = fixture
        .store
        .publish_if("x.candidate", &parts, step, accept);
    assert!(matches!(error, Err(StoreError::BadName { .. })));
}

#[test]
fn unfinished_work_is_removed_and_work_that_goes_on_is_not() {
    let fixture = fixture();
    let store = &fixture.store;
    let image = publish(store, "sandbox", b"good").unwrap();
    publish(store, "other.candidate", b"left").unwrap();
    fs::write(store.tmp().join("half"), "x").unwrap();
    let paths = |dry_run| -> Vec<_> {
        let found = store.remove_unfinished(dry_run).unwrap();
        assert!(found.iter().all(|left| left.problem.is_none()));
        found.into_iter().map(|left| left.path).collect()
    };
    let expected = [
        store.tmp().join("half"),
        store.manifest_path("other.candidate"),
    ];
    assert_eq!(paths(true), expected);
    assert_eq!(paths(false), expected);
    assert!(paths(false).is_empty());
    assert_eq!((blob_count(store), tmp_count(store)), (3, 0));
    assert_eq!(store.find("sandbox").unwrap(), image);
    publish_if(store, b"new", |candidate| {
        assert!(paths(false).is_empty());
        store.find(&candidate.name).map(|_| ())
    })
    .unwrap();
}

#[test]
fn a_store_that_is_not_there_has_nothing_unfinished() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store")).unwrap();
    assert!(store.remove_unfinished(false).unwrap().is_empty());
    assert!(!store.root().exists());
}
