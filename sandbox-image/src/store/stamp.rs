//! Recorded verifications: how a file that was hashed once is trusted without being hashed again.
//!
//! A root file system of 100 MB is not hashed at each start. When its digest has been checked, the
//! file's [`Stamp`] (device, inode, length, times of change) is recorded; as long as the file still
//! has it, it was not written to: every write, truncation, replacement or change of mode moves the
//! inode's change time, which no program can set back. A file whose stamp differs is hashed again.
//!
//! The [`Record`] of an image holds all that a start needs, so that one file is read and four are
//! looked at, and the manifest is not even parsed.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// File times are taken from a clock that ticks at most every 10 ms (`CONFIG_HZ=100`): a second
/// write within the same tick leaves the same time. A stamp is good once this has passed since.
const CLOCK_TICK: Duration = Duration::from_millis(20);

/// What changes whenever a file is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
}

impl Stamp {
    /// The stamp of the file at `path`, links not followed.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from_stat(&rustix::fs::lstat(path)?))
    }

    /// The stamp in a `stat` structure.
    pub(super) fn from_stat(stat: &Stat) -> Self {
        let nanoseconds = |seconds: i64, rest: u64| {
            seconds
                .saturating_mul(1_000_000_000)
                .saturating_add_unsigned(rest)
        };
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size.unsigned_abs(),
            mtime_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            ctime_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// The file's length.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The stamp as bytes, to be hashed.
    pub(crate) fn to_bytes(self) -> [u8; 40] {
        let Self {
            dev,
            ino,
            size,
            mtime_ns,
            ctime_ns,
        } = self;
        let fields = [
            dev.to_le_bytes(),
            ino.to_le_bytes(),
            size.to_le_bytes(),
            mtime_ns.to_le_bytes(),
            ctime_ns.to_le_bytes(),
        ];
        let mut bytes = [0; 40];
        for (place, byte) in bytes.iter_mut().zip(fields.as_flattened()) {
            *place = *byte;
        }
        bytes
    }

    /// How long to wait until a further change of the file must show in its stamp.
    pub(crate) fn settles_in(&self, now: SystemTime) -> Duration {
        let newest = u64::try_from(self.mtime_ns.max(self.ctime_ns)).unwrap_or(0);
        let settled = UNIX_EPOCH + Duration::from_nanos(newest) + CLOCK_TICK;
        // A file from the future (a clock set back) cannot be waited for.
        settled
            .duration_since(now)
            .unwrap_or_default()
            .min(CLOCK_TICK)
    }
}

/// A file whose digest was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verified {
    pub(super) digest: Digest,
    pub(super) stamp: Stamp,
}

/// An image whose files were all checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) manifest: Verified,
    pub(super) kernel: Verified,
    pub(super) initramfs: Verified,
    pub(super) rootfs: Verified,
    pub(super) cmdline: String,
    pub(super) discovery: String,
}

impl Record {
    /// The record as it is stored: a checksum, a line end, JSON.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("{:016x}\n{json}", fnv1a(json.as_bytes())).into_bytes()
    }

    /// Parses a record. One that is damaged counts as none: it only saves work.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (checksum, json) = bytes.split_at_checked(17)?;
        let checksum = std::str::from_utf8(checksum.strip_suffix(b"\n")?).ok()?;
        if u64::from_str_radix(checksum, 16).ok()? != fnv1a(json) {
            return None;
        }
        serde_json::from_slice(json).ok()
    }

    /// The recorded verification of the blob with this digest.
    pub(super) fn blob(&self, digest: Digest) -> Option<Stamp> {
        [&self.kernel, &self.initramfs, &self.rootfs]
            .into_iter()
            .find(|verified| verified.digest == digest)
            .map(|verified| verified.stamp)
    }
}

/// 64-bit FNV-1a: against damage, not against malice, in three instructions a byte.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn any_verified() -> impl Strategy<Value = Verified> {
        any::<(u64, u64, u64, i64, i64)>().prop_map(|(dev, ino, size, mtime_ns, ctime_ns)| {
            Verified {
                digest: Digest::of(&ino.to_le_bytes()),
                stamp: Stamp {
                    dev,
                    ino,
                    size,
                    mtime_ns,
                    ctime_ns,
                },
            }
        })
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let files = [
            any_verified(),
            any_verified(),
            any_verified(),
            any_verified(),
        ];
        (files, ".*", ".*").prop_map(
            |([manifest, kernel, initramfs, rootfs], cmdline, discovery)| Record {
                manifest,
                kernel,
                initramfs,
                rootfs,
                cmdline,
                discovery,
            },
        )
    }

    proptest! {
        #[test]
        fn record_round_trips(record in any_record()) {
            prop_assert_eq!(Record::parse(&record.to_bytes()), Some(record));
        }

        #[test]
        fn record_with_a_flipped_bit_counts_as_none(
            record in any_record(),
            place: prop::sample::Index,
            bit in 0_u8..8,
        ) {
            let mut bytes = record.to_bytes();
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            // Upper case in the checksum is the same number; nothing else may pass.
            prop_assert!(Record::parse(&bytes).is_none_or(|read| read == record));
        }

        #[test]
        fn any_bytes_are_a_record_or_none(bytes: Vec<u8>) {
            let _ = Record::parse(&bytes);
        }
    }

    #[test]
    fn stamp_changes_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let before = Stamp::of(&path).unwrap();
        std::thread::sleep(before.settles_in(SystemTime::now()));
        fs::write(&path, "two").unwrap();
        assert_ne!(Stamp::of(&path).unwrap(), before);
    }
}
