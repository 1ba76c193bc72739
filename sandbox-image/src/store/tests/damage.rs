//! The store against damage: nothing is used that is not what was stored.

use std::os::unix::fs::symlink;

use super::*;

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
