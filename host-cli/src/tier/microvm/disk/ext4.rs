//! An empty ext4 file system, written by ourselves: neither this machine nor an image needs `mkfs`.
//!
//! ```text
//!  block 0        1 ..            group 0's                                        32768 * n
//!  ┌────────────┬───────────────┬────────┬────────┬────────┬───┬─────┬─────────┐ ┌────────┬────────┬──
//!  │ superblock │ descriptors   │ block  │ inode  │ inodes │ / │ l+f │ journal │ │ block  │ inode  │ ..
//!  └────────────┴───────────────┴─bitmap─┴─bitmap─┴────────┴───┴─────┴─────────┘ └─bitmap─┴─bitmap─┴──
//! ```
//!
//! All that is not written is zero, which is what a new sparse file reads as. Groups after the first
//! are marked as not initialized, so a file system of any size costs a few blocks. The layout is that
//! of the Linux kernel's documentation (filesystems/ext4); names are its names.

use std::io;

/// What a block is in all our file systems.
pub(super) const BLOCK: u32 = 4096;
/// One block of bitmap describes so many.
const BLOCKS_PER_GROUP: u32 = 8 * BLOCK;
const INODE_SIZE: u32 = 256;
const INODES_PER_BLOCK: u32 = BLOCK / INODE_SIZE;
/// One for every 16 KiB.
const MAX_INODES_PER_GROUP: u32 = 8192;
const MIN_INODES_PER_GROUP: u32 = 128;
const DESCRIPTOR_SIZE: u32 = 32;
/// A last group that is smaller is not worth its own tables.
const MIN_LAST_GROUP: u32 = 2 + MAX_INODES_PER_GROUP / INODES_PER_BLOCK + 64;
/// The kernel refuses a journal of less (JBD2_MIN_JOURNAL_BLOCKS).
const MIN_JOURNAL: u32 = 1024;
const MAX_JOURNAL: u32 = 8192;

const ROOT_INODE: u32 = 2;
const JOURNAL_INODE: u32 = 8;
/// `s_first_ino`: the first that is not special, which `lost+found` has.
const FIRST_INODE: u32 = 11;

/// `s_feature_compat`: has_journal, ext_attr, dir_index, sparse_super2 (of which there are none).
const COMPAT: u32 = 0x4 | 0x8 | 0x20 | 0x200;
/// `s_feature_incompat`: filetype, extents.
const INCOMPAT: u32 = 0x2 | 0x40;
/// `s_feature_ro_compat`: sparse_super, large_file, huge_file, uninit_bg, dir_nlink, extra_isize.
const RO_COMPAT: u32 = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40;

/// `bg_flags`: inode bitmap and inodes, block bitmap not initialized; inodes are zero.
const INODE_UNINIT: u16 = 0x1;
const BLOCK_UNINIT: u16 = 0x2;
const INODE_ZEROED: u16 = 0x4;

const DIRECTORY: u16 = 0o040_000;
const REGULAR: u16 = 0o100_000;
/// `i_flags`: the inode has extents.
const EXTENTS: u32 = 0x8_0000;
/// `i_extra_isize`: up to and with `i_projid`.
const EXTRA_ISIZE: u16 = 32;
/// The unit of `i_blocks`.
const SECTORS_PER_BLOCK: u32 = BLOCK / 512;

/// What makes one file system another than the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    /// `s_uuid`.
    pub(super) uuid: [u8; 16],
    /// `s_hash_seed`.
    pub(super) hash_seed: [u8; 16],
    /// When it is made, in seconds since 1970.
    pub(super) made: u32,
}

/// Where everything is in a file system of some size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    blocks: u32,
    groups: u32,
    inodes_per_group: u32,
    /// Of the group descriptors.
    descriptor_blocks: u32,
    journal: u32,
}

/// Writes an empty file system for a device of this many blocks, by calls of `write` with the number
/// of a block and its content.
///
/// # Errors
///
/// If `write` fails, or there are too few blocks.
pub(super) fn make(
    blocks: u32,
    identity: &Identity,
    mut write: impl FnMut(u32, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let layout = Layout::of(blocks).ok_or(io::ErrorKind::InvalidInput)?;
    write(0, &layout.superblock(identity).0)?;
    let descriptors = layout.descriptors(&identity.uuid);
    for (number, block) in (1..).zip(descriptors.chunks(BLOCK as usize)) {
        write(number, block)?;
    }
    write(layout.bitmap(0), &layout.block_bitmap(0).0)?;
    write(layout.bitmap(0) + 1, &layout.inode_bitmap().0)?;
    write(layout.inodes(0), &layout.first_inodes(identity.made).0)?;
    write(layout.root(), &directory(ROOT_INODE, true).0)?;
    write(layout.lost_found(), &directory(FIRST_INODE, false).0)?;
    write(layout.journal_start(), &layout.journal_superblock().0)?;
    let last = layout.groups - 1;
    if last > 0 {
        write(layout.bitmap(last), &layout.block_bitmap(last).0)?;
    }
    Ok(())
}

impl Layout {
    /// `None` for too few blocks.
    fn of(blocks: u32) -> Option<Self> {
        let rest = blocks % BLOCKS_PER_GROUP;
        let is_too_small = blocks > BLOCKS_PER_GROUP && rest < MIN_LAST_GROUP;
        let blocks = if is_too_small { blocks - rest } else { blocks };
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let inodes_per_group = (blocks / 4)
            .clamp(MIN_INODES_PER_GROUP, MAX_INODES_PER_GROUP)
            .next_multiple_of(INODES_PER_BLOCK);
        let layout = Self {
            blocks,
            groups,
            inodes_per_group,
            descriptor_blocks: (groups.checked_mul(DESCRIPTOR_SIZE)?).div_ceil(BLOCK),
            journal: (blocks / 16).clamp(MIN_JOURNAL, MAX_JOURNAL),
        };
        (layout.used(0) < layout.size(0)).then_some(layout)
    }

    const fn start(&self, group: u32) -> u32 {
        group * BLOCKS_PER_GROUP
    }

    fn size(&self, group: u32) -> u32 {
        (self.blocks - self.start(group)).min(BLOCKS_PER_GROUP)
    }

    /// The group's block bitmap; its inode bitmap comes after it.
    const fn bitmap(&self, group: u32) -> u32 {
        match group {
            0 => 1 + self.descriptor_blocks,
            _ => self.start(group),
        }
    }

    const fn inodes(&self, group: u32) -> u32 {
        self.bitmap(group) + 2
    }

    const fn root(&self) -> u32 {
        self.inodes(0) + self.inodes_per_group / INODES_PER_BLOCK
    }

    const fn lost_found(&self) -> u32 {
        self.root() + 1
    }

    const fn journal_start(&self) -> u32 {
        self.lost_found() + 1
    }

    /// How many blocks of a group are in use; they are its first ones.
    const fn used(&self, group: u32) -> u32 {
        match group {
            0 => self.journal_start() + self.journal,
            _ => 2 + self.inodes_per_group / INODES_PER_BLOCK,
        }
    }

    fn free(&self, group: u32) -> u32 {
        self.size(group) - self.used(group)
    }

    fn superblock(&self, identity: &Identity) -> Block {
        let mut block = Block::new();
        let mut at = Fields(&mut block, 1024);
        let inodes = self.groups * self.inodes_per_group;
        let free = (0..self.groups).map(|group| self.free(group)).sum();
        at.put(0x00, &le(inodes));
        at.put(0x04, &le(self.blocks));
        at.put(0x0c, &le(free)); // s_free_blocks_count
        at.put(0x10, &le(inodes - FIRST_INODE)); // s_free_inodes_count
        at.put(0x18, &le(2)); // s_log_block_size
        at.put(0x1c, &le(2)); // s_log_cluster_size
        at.put(0x20, &le(BLOCKS_PER_GROUP));
        at.put(0x24, &le(BLOCKS_PER_GROUP)); // s_clusters_per_group
        at.put(0x28, &le(self.inodes_per_group));
        at.put(0x30, &le(identity.made)); // s_wtime
        at.put(0x36, &u16::MAX.to_le_bytes()); // s_max_mnt_count
        at.put(0x38, &0xef53_u16.to_le_bytes()); // s_magic
        at.put(0x3a, &1_u16.to_le_bytes()); // s_state: clean
        at.put(0x3c, &2_u16.to_le_bytes()); // s_errors: remount read-only
        at.put(0x40, &le(identity.made)); // s_lastcheck
        at.put(0x4c, &le(1)); // s_rev_level
        at.put(0x54, &le(FIRST_INODE));
        at.put(0x58, &narrow(INODE_SIZE).to_le_bytes());
        at.put(0x5c, &le(COMPAT));
        at.put(0x60, &le(INCOMPAT));
        at.put(0x64, &le(RO_COMPAT));
        at.put(0x68, &identity.uuid);
        at.put(0x78, b"sovereign"); // s_volume_name
        at.put(0xe0, &le(JOURNAL_INODE)); // s_journal_inum
        at.put(0xec, &identity.hash_seed);
        at.put(0xfc, &[1, 1]); // s_def_hash_version: half MD4; s_jnl_backup_type: blocks
        at.put(0x100, &le(0xc)); // s_default_mount_opts: user_xattr, acl
        at.put(0x108, &le(identity.made)); // s_mkfs_time
        // s_jnl_blocks: what the journal's inode says of its blocks and its size.
        at.put(0x10c, &extent(self.journal_start(), self.journal));
        at.put(0x10c + 16 * 4, &le(self.journal * BLOCK));
        at.put(0x15c, &EXTRA_ISIZE.to_le_bytes()); // s_min_extra_isize
        at.put(0x15e, &EXTRA_ISIZE.to_le_bytes()); // s_want_extra_isize
        at.put(0x160, &le(1)); // s_flags: signed directory hash
        block
    }

    fn descriptors(&self, uuid: &[u8; 16]) -> Vec<u8> {
        let descriptors = (0..self.groups).flat_map(|group| self.descriptor(group, uuid));
        descriptors.collect()
    }

    fn descriptor(&self, group: u32, uuid: &[u8; 16]) -> [u8; DESCRIPTOR_SIZE as usize] {
        let is_first = group == 0;
        let used_inodes = if is_first { FIRST_INODE } else { 0 };
        let free_inodes = narrow(self.inodes_per_group - used_inodes).to_le_bytes();
        let flags = match group {
            0 => INODE_ZEROED,
            // What lies beyond the end is marked in its bitmap.
            last if last + 1 == self.groups => INODE_UNINIT | INODE_ZEROED,
            _ => INODE_UNINIT | BLOCK_UNINIT | INODE_ZEROED,
        };
        let directories = if is_first { 2_u16 } else { 0 };
        let mut bytes = [0; DESCRIPTOR_SIZE as usize];
        let mut put = |offset, field: &[u8]| put(&mut bytes, offset, field);
        put(0x00, &le(self.bitmap(group)));
        put(0x04, &le(self.bitmap(group) + 1));
        put(0x08, &le(self.inodes(group)));
        put(0x0c, &narrow(self.free(group)).to_le_bytes());
        put(0x0e, &free_inodes);
        put(0x10, &directories.to_le_bytes());
        put(0x12, &flags.to_le_bytes());
        put(0x1c, &free_inodes); // bg_itable_unused
        let (covered, _) = bytes.split_at(0x1e);
        let checksum = [&uuid[..], &le(group), covered]
            .into_iter()
            .flatten()
            .fold(u16::MAX, |crc, byte| crc16(crc, *byte));
        self::put(&mut bytes, 0x1e, &checksum.to_le_bytes());
        bytes
    }

    fn block_bitmap(&self, group: u32) -> Block {
        let mut block = Block::new();
        block.set_bits(0..self.used(group));
        block.set_bits(self.size(group)..BLOCKS_PER_GROUP);
        block
    }

    /// Of group 0; the others' is not initialized.
    fn inode_bitmap(&self) -> Block {
        let mut block = Block::new();
        block.set_bits(0..FIRST_INODE);
        block.set_bits(self.inodes_per_group..BLOCKS_PER_GROUP);
        block
    }

    /// All inodes that there are, in the first block of them.
    fn first_inodes(&self, made: u32) -> Block {
        let mut block = Block::new();
        let directory = |mode, links, at| Inode {
            mode: DIRECTORY | mode,
            links,
            start: at,
            blocks: 1,
        };
        let inodes = [
            (ROOT_INODE, directory(0o755, 3, self.root())),
            (FIRST_INODE, directory(0o700, 2, self.lost_found())),
            (
                JOURNAL_INODE,
                Inode {
                    mode: REGULAR | 0o600,
                    links: 1,
                    start: self.journal_start(),
                    blocks: self.journal,
                },
            ),
        ];
        for (number, inode) in inodes {
            // Inodes are numbered from 1.
            let mut at = Fields(&mut block, (number - 1) * INODE_SIZE);
            inode.write(&mut at, made);
        }
        block
    }

    /// The superblock of an empty journal (jbd2, version 2), whose fields are big-endian.
    fn journal_superblock(&self) -> Block {
        let mut block = Block::new();
        let mut at = Fields(&mut block, 0);
        at.put(0x00, &0xc03b_3998_u32.to_be_bytes()); // h_magic
        at.put(0x04, &4_u32.to_be_bytes()); // h_blocktype
        at.put(0x0c, &BLOCK.to_be_bytes()); // s_blocksize
        at.put(0x10, &self.journal.to_be_bytes()); // s_maxlen
        at.put(0x14, &1_u32.to_be_bytes()); // s_first
        at.put(0x18, &1_u32.to_be_bytes()); // s_sequence
        at.put(0x40, &1_u32.to_be_bytes()); // s_nr_users
        block
    }
}

/// An inode whose blocks are one extent.
struct Inode {
    mode: u16,
    links: u16,
    start: u32,
    blocks: u32,
}

impl Inode {
    fn write(&self, at: &mut Fields<'_>, made: u32) {
        at.put(0x00, &self.mode.to_le_bytes());
        at.put(0x04, &le(self.blocks * BLOCK)); // i_size
        for time in [0x08, 0x0c, 0x10, 0x90] {
            at.put(time, &le(made));
        }
        at.put(0x1a, &self.links.to_le_bytes());
        at.put(0x1c, &le(self.blocks * SECTORS_PER_BLOCK)); // i_blocks
        at.put(0x20, &le(EXTENTS)); // i_flags
        at.put(0x28, &extent(self.start, self.blocks)); // i_block
        at.put(0x80, &EXTRA_ISIZE.to_le_bytes());
    }
}

/// An extent tree of one leaf: `struct ext4_extent_header`, `struct ext4_extent`.
fn extent(start: u32, blocks: u32) -> [u8; 24] {
    let mut bytes = [0; 24];
    let mut put = |offset, field: &[u8]| put(&mut bytes, offset, field);
    put(0, &0xf30a_u16.to_le_bytes()); // eh_magic
    put(2, &1_u16.to_le_bytes()); // eh_entries
    put(4, &4_u16.to_le_bytes()); // eh_max
    put(16, &narrow(blocks).to_le_bytes()); // ee_len
    put(20, &le(start)); // ee_start_lo
    bytes
}

/// The one block of a folder, below the root.
fn directory(inode: u32, has_lost_found: bool) -> Block {
    let mut block = Block::new();
    let mut at = Fields(&mut block, 0);
    let entries: &[(u32, &[u8])] = match has_lost_found {
        true => &[
            (inode, b"."),
            (ROOT_INODE, b".."),
            (FIRST_INODE, b"lost+found"),
        ],
        false => &[(inode, b"."), (ROOT_INODE, b"..")],
    };
    let mut offset = 0;
    for (index, (inode, name)) in (1..).zip(entries) {
        let name_len = u8::try_from(name.len()).unwrap_or(u8::MAX);
        let own = (8 + u32::from(name_len)).next_multiple_of(4);
        let is_last = index == entries.len();
        let length = if is_last { BLOCK - offset } else { own };
        at.put(offset, &le(*inode));
        at.put(offset + 4, &narrow(length).to_le_bytes());
        at.put(offset + 6, &[name_len, 2]); // file_type: directory
        at.put(offset + 8, name);
        offset += length;
    }
    block
}

/// The content of a block.
struct Block([u8; BLOCK as usize]);

impl Block {
    const fn new() -> Self {
        Self([0; BLOCK as usize])
    }

    fn set_bits(&mut self, bits: std::ops::Range<u32>) {
        for bit in bits {
            if let Some(byte) = self.0.get_mut(bit as usize / 8) {
                *byte |= 1 << (bit % 8);
            }
        }
    }
}

/// A structure in a block, by its offset.
struct Fields<'a>(&'a mut Block, u32);

impl Fields<'_> {
    fn put(&mut self, offset: u32, field: &[u8]) {
        put(&mut self.0.0, self.1 + offset, field);
    }
}

fn put(bytes: &mut [u8], offset: u32, field: &[u8]) {
    for (byte, value) in bytes.iter_mut().skip(offset as usize).zip(field) {
        *byte = *value;
    }
}

const fn le(number: u32) -> [u8; 4] {
    number.to_le_bytes()
}

/// Of numbers that a layout keeps small.
fn narrow(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// CRC-16 with the polynomial 0x8005, reflected (Linux, lib/crc/crc16.c).
fn crc16(crc: u16, byte: u8) -> u16 {
    (0..8).fold(crc ^ u16::from(byte), |crc, _| {
        (crc >> 1) ^ if crc & 1 == 1 { 0xa001 } else { 0 }
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use super::*;

    const IDENTITY: Identity = Identity {
        uuid: *b"0123456789abcdef",
        hash_seed: *b"fedcba9876543210",
        made: 1_700_000_000,
    };

    fn made(mib: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(mib << 20).unwrap();
        write_to(file.as_file(), mib);
        file
    }

    fn write_to(file: &File, mib: u64) {
        let blocks = u32::try_from((mib << 20) / u64::from(BLOCK)).unwrap();
        make(blocks, &IDENTITY, |number, block| {
            file.write_all_at(block, u64::from(number) * u64::from(BLOCK))
        })
        .unwrap();
    }

    // The field's own checker is the judge, where it is installed.
    #[test]
    fn e2fsck_finds_nothing_to_repair() {
        for mib in [
            32,
            33,
            127,
            128,
            129,
            131,
            200,
            1024,
            8192,
            100_000,
            1 << 20,
        ] {
            let file = made(mib);
            let checked = Command::new("e2fsck")
                .args(["-fn"])
                .arg(file.path())
                .output();
            let Ok(checked) = checked else {
                eprintln!("there is no e2fsck: not checked");
                return;
            };
            assert!(checked.status.success(), "{mib} MiB: {checked:?}");
        }
    }

    #[test]
    fn size_costs_next_to_nothing() {
        use std::os::unix::fs::MetadataExt;
        let file = made(8192);
        let bytes = file.as_file().metadata().unwrap().blocks() * 512;
        assert!(bytes <= 128 << 10, "{bytes} bytes");
    }

    #[test]
    fn what_is_too_small_is_refused() {
        for blocks in [0, 1, 100, MIN_JOURNAL] {
            assert!(make(blocks, &IDENTITY, |_, _| Ok(())).is_err(), "{blocks}");
        }
    }

    #[test]
    fn every_block_is_inside() {
        for blocks in (2048..300_000).step_by(997) {
            make(blocks, &IDENTITY, |number, block| {
                assert!(number < blocks && block.len() <= BLOCK as usize);
                Ok(())
            })
            .unwrap();
        }
    }

    #[test]
    fn checksum_is_the_kernels() {
        let crc = b"123456789".iter().fold(0, |crc, byte| crc16(crc, *byte));
        assert_eq!(crc, 0xbb3d);
    }
}
