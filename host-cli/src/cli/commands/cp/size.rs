//! How much a copy will be, as far as that can be known before: for whoever looks at it, to the
//! kilobyte or so.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// What an archive says of a file before its data: a header, and a record for the times.
const HEADERS: u64 = 3 * 512;
/// The zeros at an archive's end.
const END: u64 = 2 * 512;

/// The bytes of an archive of what is here; `None` if it cannot be known, or nobody wants it any more.
pub(super) fn of(source: &Path, follow: bool, is_wanted: &AtomicBool) -> Option<u64> {
    let metadata = match follow {
        true => source.metadata(),
        false => source.symlink_metadata(),
    };
    let metadata = metadata.ok()?;
    let mut total = END + entry(&metadata);
    let mut folders = Vec::new();
    if metadata.is_dir() {
        folders.push(source.to_owned());
    }
    while let Some(folder) = folders.pop() {
        for found in fs::read_dir(folder).ok()? {
            if !is_wanted.load(Ordering::Relaxed) {
                return None;
            }
            let found = found.ok()?;
            let metadata = found.metadata().ok()?;
            total = total.saturating_add(entry(&metadata));
            if metadata.is_dir() {
                folders.push(found.path());
            }
        }
    }
    Some(total)
}

fn entry(metadata: &Metadata) -> u64 {
    let data = match metadata.is_file() {
        // Holes are not sent.
        true => metadata.len().min(metadata.blocks().saturating_mul(512)),
        false => 0,
    };
    HEADERS.saturating_add(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_that_of_the_data_and_a_little_more() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/a"), vec![1; 300_000]).unwrap();
        fs::write(folder.path().join("b"), vec![1; 1000]).unwrap();
        let holes = fs::File::create(folder.path().join("holes")).unwrap();
        holes.set_len(1 << 30).unwrap();
        let told = of(folder.path(), false, &AtomicBool::new(true)).unwrap();
        assert!((301_000..320_000).contains(&told), "{told}");
        assert_eq!(of(folder.path(), false, &AtomicBool::new(false)), None);
    }
}
