//! What can be told of an EROFS image from its first block.
//!
//! Layout: Linux, fs/erofs/erofs_fs.h, `struct erofs_super_block`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Where the superblock is (`EROFS_SUPER_OFFSET`).
const OFFSET: u64 = 1024;

/// How a superblock begins (`EROFS_SUPER_MAGIC_V1`).
const MAGIC: u32 = 0xE0F5_E1E2;

/// Offsets in the superblock: `magic`, `blkszbits`, `blocks`.
const MAGIC_AT: usize = 0;
const BLOCK_SIZE_BITS_AT: usize = 12;
const BLOCKS_AT: usize = 36;

/// The block sizes that Linux knows: 512 bytes to 64 KiB.
const BLOCK_SIZE_BITS: std::ops::RangeInclusive<u8> = 9..=16;

/// A file is no root file system.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// It could not be read.
    #[error("cannot read {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error(
        "{path} is no EROFS image; make one of a folder with: mkfs.erofs IMAGE FOLDER",
        path = path.display()
    )]
    OtherFormat {
        /// The file.
        path: PathBuf,
    },
    /// Its end is missing.
    #[error(
        "{path} is cut off: it has {actual} bytes, and its superblock speaks of {expected}",
        path = path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The length by the superblock.
        expected: u64,
        /// The length it has.
        actual: u64,
    },
}

/// Checks that a file is an EROFS image, and whole.
///
/// # Errors
/// What is wrong with it.
pub fn check(path: &Path) -> Result<(), ErofsError> {
    let failed = |source| ErofsError::Io {
        path: path.to_owned(),
        source,
    };
    let other = || ErofsError::OtherFormat {
        path: path.to_owned(),
    };
    let mut file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let mut block = [0; 128];
    file.seek(SeekFrom::Start(OFFSET)).map_err(failed)?;
    match file.read_exact(&mut block) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(other()),
        result => result.map_err(failed)?,
    }
    let magic = read_u32(&block, MAGIC_AT);
    let bits = block.get(BLOCK_SIZE_BITS_AT).copied().unwrap_or(0);
    if magic != Some(MAGIC) || !BLOCK_SIZE_BITS.contains(&bits) {
        return Err(other());
    }
    let blocks = read_u32(&block, BLOCKS_AT).unwrap_or(0);
    let expected = u64::from(blocks) << bits;
    if meta.len() < expected {
        return Err(ErofsError::Truncated {
            path: path.to_owned(),
            expected,
            actual: meta.len(),
        });
    }
    Ok(())
}

fn read_u32(block: &[u8], at: usize) -> Option<u32> {
    let bytes = block.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// An image of `blocks` 4 KiB blocks that holds nothing but a superblock.
    fn image(blocks: u32) -> Vec<u8> {
        let mut bytes = vec![0; blocks as usize * 4096];
        bytes[1024..1028].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[1024 + 12] = 12;
        bytes[1024 + 36..1024 + 40].copy_from_slice(&blocks.to_le_bytes());
        bytes
    }

    fn check_bytes(bytes: &[u8]) -> Result<(), ErofsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rootfs");
        fs::write(&path, bytes).unwrap();
        check(&path)
    }

    #[test]
    fn whole_image_passes() {
        check_bytes(&image(3)).unwrap();
    }

    #[test]
    fn truncated_image_is_refused_with_both_lengths() {
        let error = check_bytes(&image(3)[..8192]).unwrap_err().to_string();
        assert!(error.contains("8192") && error.contains("12288"), "{error}");
    }

    #[test]
    fn other_files_are_refused() {
        for bytes in [&b""[..], b"text", &[0; 8192], &[0xFF; 8192]] {
            let error = check_bytes(bytes).unwrap_err();
            assert!(matches!(error, ErofsError::OtherFormat { .. }), "{error}");
        }
    }

    #[test]
    fn missing_file_is_named() {
        let error = check(Path::new("/nonexistent/rootfs")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/rootfs"));
    }
}
