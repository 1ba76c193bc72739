//! The archive that a root file system was made from.

use std::fs;
use std::path::PathBuf;

use super::{FACTS, Facts, KIND, TAR};
use crate::cache::Cache;
use crate::digest::Digest;

/// The tar archive of the root file system whose EROFS image has this digest, if it was built on
/// this machine and the cache still has it. Container engines import it.
#[must_use]
pub fn find_tar(cache: &Cache, image: Digest) -> Option<PathBuf> {
    let entries = fs::read_dir(cache.root().join(KIND)).ok()?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find_map(|entry| {
            let facts = fs::read(entry.join(FACTS)).ok()?;
            let facts: Facts = serde_json::from_slice(&facts).ok()?;
            let tar = entry.join(TAR);
            // An entry that is being made has another name, and is none yet.
            let whole = entry.extension().is_none() && tar.is_file();
            (facts.image == image && whole).then_some(tar)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS_TEXT: &str = r#"{"image": "DIGEST", "contents": {"system": "s", "version": "1",
        "python": "3", "packages": {}, "user": {"name": "n", "uid": 1, "gid": 1, "home": "/"}}}"#;

    #[test]
    fn the_archive_of_a_digest_is_found_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().to_owned());
        let digest = Digest::of(b"image");
        assert_eq!(find_tar(&cache, digest), None);
        let text = FACTS_TEXT.replace("DIGEST", &digest.to_string());
        for name in ["abc.partial", "abc"] {
            let entry = folder.path().join(KIND).join(name);
            fs::create_dir_all(&entry).unwrap();
            fs::write(entry.join(FACTS), &text).unwrap();
            fs::write(entry.join(TAR), "tar").unwrap();
        }
        let expected = folder.path().join(KIND).join("abc").join(TAR);
        assert_eq!(find_tar(&cache, digest), Some(expected));
        assert_eq!(find_tar(&cache, Digest::of(b"other")), None);
    }
}
