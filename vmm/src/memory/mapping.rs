//! Host mappings behind guest memory.

// UNSAFETY: the host is told which pages to use for a range of addresses, and finding an aligned
// address needs mappings that are given back at once.
#![expect(unsafe_code, reason = "mmap, munmap and madvise take raw addresses")]

use std::ffi::c_void;
use std::ptr;

use rustix::io::Errno;
use rustix::mm::{self, Advice, MapFlags, ProtFlags};
use vm_memory::MmapRegion;
use vm_memory::mmap::MmapRegionError;

/// Which pages the host uses for the guest's anonymous memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPages {
    /// 4 KiB pages only: least resident memory.
    Small,
    /// 2 MiB pages wherever the host has them (`MADV_HUGEPAGE`): fewest faults.
    Huge,
    /// Whatever the host's administrator chose for everyone.
    HostDefault,
}

/// The host's huge page, and so the alignment that lets KVM use one for the guest.
const HUGE_PAGE: usize = 2 << 20;

/// Maps anonymous memory, aligned to a huge page where the host can be brought to it.
///
/// Kernels from 6.7 on align large mappings by themselves. Older ones put a mapping into the highest
/// hole that fits; so a hole of the right size and alignment is made first. Should the mapping land
/// elsewhere all the same, it is used as it is: alignment is about speed alone.
pub(super) fn anonymous(size: usize) -> Result<MmapRegion, MmapRegionError> {
    let region = MmapRegion::new(size)?;
    if is_aligned(&region) {
        return Ok(region);
    }
    drop(region);
    let Some(pads) = make_aligned_hole(size) else {
        return MmapRegion::new(size);
    };
    let region = MmapRegion::new(size);
    for (start, length) in pads {
        release(start, length);
    }
    region
}

/// Tells the host which pages to use.
pub(super) fn advise(region: &MmapRegion, pages: HostPages) -> Result<(), Errno> {
    let advice = match pages {
        HostPages::Small => Advice::LinuxNoHugepage,
        HostPages::Huge => Advice::LinuxHugepage,
        HostPages::HostDefault => return Ok(()),
    };
    // SAFETY: the range is exactly the region's own mapping, and neither advice changes its content.
    match unsafe { mm::madvise(region.as_ptr().cast(), region.size(), advice) } {
        // A host built without transparent huge pages has nothing to choose.
        Err(Errno::INVAL) => Ok(()),
        other => other,
    }
}

fn is_aligned(region: &MmapRegion) -> bool {
    region.size() < HUGE_PAGE || region.as_ptr().addr() % HUGE_PAGE == 0
}

/// Leaves a hole of `size` bytes, aligned to a huge page, between two paddings, which are returned.
fn make_aligned_hole(size: usize) -> Option<[(*mut c_void, usize); 2]> {
    let reserved = size.checked_add(HUGE_PAGE)?;
    // SAFETY: the kernel chooses the address of this new mapping.
    let start = unsafe {
        mm::mmap_anonymous(
            ptr::null_mut(),
            reserved,
            ProtFlags::empty(),
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    }
    .ok()?;
    let below = start.addr().next_multiple_of(HUGE_PAGE) - start.addr();
    release(start.wrapping_byte_add(below), size);
    let above = below + size;
    Some([
        (start, below),
        (start.wrapping_byte_add(above), reserved - above),
    ])
}

/// Unmaps a part of the reservation that [`make_aligned_hole`] made.
fn release(start: *mut c_void, length: usize) {
    if length > 0 {
        // SAFETY: the range was mapped without access by `make_aligned_hole`, nothing points to it,
        // and each part of it is released once. A failure leaves unused address space behind.
        let _ = unsafe { mm::munmap(start, length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_huge_page_or_more_is_aligned() {
        let region = anonymous(64 << 20).unwrap();
        assert!(is_aligned(&region));
    }

    #[test]
    fn an_aligned_hole_is_where_the_next_mapping_goes() {
        let size = 1 << 30;
        let pads = make_aligned_hole(size).unwrap();
        let region = MmapRegion::<()>::new(size).unwrap();
        assert_eq!(region.as_ptr().addr() % HUGE_PAGE, 0);
        for (start, length) in pads {
            release(start, length);
        }
    }
}
