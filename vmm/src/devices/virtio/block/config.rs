//! Features and configuration space (virtio 1.2, sections 5.2.3 and 5.2.4).

/// The unit of capacity and of sector numbers.
pub(super) const SECTOR_SIZE: u64 = 512;

/// The most bytes that one buffer of a request should have. Contiguous guest memory up to this size
/// is one descriptor.
pub(super) const SIZE_MAX: u32 = 1 << 20;

/// The most ranges in one discard or write-zeroes request.
pub(super) const MAX_RANGES: u32 = 16;

const VIRTIO_BLK_F_SIZE_MAX: u64 = 1 << 1;
const VIRTIO_BLK_F_SEG_MAX: u64 = 1 << 2;
const VIRTIO_BLK_F_RO: u64 = 1 << 5;
const VIRTIO_BLK_F_BLK_SIZE: u64 = 1 << 6;
/// The driver flushes the disk's cache when it wants data to be safe.
pub(super) const VIRTIO_BLK_F_FLUSH: u64 = 1 << 9;
const VIRTIO_BLK_F_DISCARD: u64 = 1 << 13;
const VIRTIO_BLK_F_WRITE_ZEROES: u64 = 1 << 14;

/// The features of a disk beyond those of the transport.
pub(super) fn features(read_only: bool, punches_holes: bool) -> u64 {
    let mut features = VIRTIO_BLK_F_SIZE_MAX | VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_BLK_SIZE;
    if read_only {
        return features | VIRTIO_BLK_F_RO;
    }
    features |= VIRTIO_BLK_F_FLUSH;
    if punches_holes {
        features |= VIRTIO_BLK_F_DISCARD | VIRTIO_BLK_F_WRITE_ZEROES;
    }
    features
}

/// How many data buffers a request can have: a chain is no longer than the queue, and two of its
/// descriptors hold the header and the status.
pub(super) fn seg_max(queue_size: u16) -> u32 {
    u32::from(queue_size.saturating_sub(2))
}

/// `struct virtio_blk_config` up to `write_zeroes_may_unmap` and its padding.
#[derive(Debug)]
pub(super) struct ConfigSpace([u8; 60]);

impl ConfigSpace {
    pub(super) fn new(sectors: u64, queue_size: u16) -> Self {
        let mut space = [0; 60];
        let mut put = |offset: usize, field: &[u8]| {
            for (byte, value) in space.iter_mut().skip(offset).zip(field) {
                *byte = *value;
            }
        };
        let one_sector = 1_u32.to_le_bytes();
        put(0, &sectors.to_le_bytes()); // capacity
        put(8, &SIZE_MAX.to_le_bytes()); // size_max
        put(12, &seg_max(queue_size).to_le_bytes()); // seg_max
        put(20, &512_u32.to_le_bytes()); // blk_size
        put(36, &u32::MAX.to_le_bytes()); // max_discard_sectors
        put(40, &MAX_RANGES.to_le_bytes()); // max_discard_seg
        put(44, &one_sector); // discard_sector_alignment
        put(48, &u32::MAX.to_le_bytes()); // max_write_zeroes_sectors
        put(52, &MAX_RANGES.to_le_bytes()); // max_write_zeroes_seg
        put(56, &[1]); // write_zeroes_may_unmap
        Self(space)
    }

    /// Reads at `offset`; what lies beyond the end is zero.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.0.get(start..).unwrap_or_default();
        for (byte, value) in data.iter_mut().zip(rest) {
            *byte = *value;
        }
    }
}
