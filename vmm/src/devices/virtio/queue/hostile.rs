//! A driver that does anything to its ring, for property tests and fuzzing.

use std::collections::HashSet;

use vm_memory::{
    GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress, VolatileSlice,
};

use super::{GuestBuffers, QueueError, VirtQueue};
use crate::devices::virtio::driver::{RingDriver, Script, guest_memory, interrupt};
use crate::memory::GuestRam;

/// Where the ring lies.
const RING: u64 = 0x1000;

/// Plays `data` as a driver's doings against a queue.
///
/// # Panics
/// When the queue does what it must not do for any driver.
pub fn drive(data: &[u8]) {
    let mut script = Script::new(data);
    let size = 1 << (script.byte() % 8);
    let event_idx = script.byte().is_multiple_of(2);
    let handle = guest_memory();
    let memory = handle.memory();
    let mut driver = RingDriver::new(&handle, RING, size);
    let mut queue = VirtQueue::new(driver.active_queue(event_idx));
    let mut in_flight = HashSet::new();
    while !script.is_empty() {
        let still_sound = match script.byte() % 4 {
            0 | 1 => {
                driver.misbehave(&mut script);
                Ok(())
            }
            2 => pop(&mut queue, &memory, &mut in_flight, &mut script),
            _ => serve(&mut queue, &memory, &in_flight),
        };
        if still_sound.is_err() {
            return;
        }
    }
}

/// Takes a chain, and keeps it, puts it back or gives it back.
fn pop(
    queue: &mut VirtQueue,
    memory: &GuestRam,
    in_flight: &mut HashSet<u16>,
    script: &mut Script<'_>,
) -> Result<(), QueueError> {
    let Some(chain) = queue.pop(memory)? else {
        return Ok(());
    };
    let head = chain.head();
    assert!(head < queue.size(), "a head outside the table");
    assert!(in_flight.insert(head), "a head that is in flight");
    assert_in_memory(memory, &chain.readable);
    assert_in_memory(memory, &chain.writable);
    match script.byte() % 3 {
        0 => {}
        1 => {
            queue.put_back(chain);
            in_flight.remove(&head);
        }
        _ => {
            queue.push_used(memory, head, script.u32())?;
            in_flight.remove(&head);
        }
    }
    Ok(())
}

fn serve(
    queue: &mut VirtQueue,
    memory: &GuestRam,
    in_flight: &HashSet<u16>,
) -> Result<(), QueueError> {
    let limit = queue.size();
    let mut served = 0;
    queue.serve(memory, &interrupt(), limit, |chain| {
        served += 1;
        assert!(served <= limit, "more chains than the limit");
        assert!(
            !in_flight.contains(&chain.head()),
            "a head that is in flight"
        );
        assert_in_memory(memory, &chain.readable);
        assert_in_memory(memory, &chain.writable);
        let mut header = [0; 16];
        let _ = chain.readable.read_exact(&mut header);
        let mut written = 0;
        while written < 4096 && chain.writable.write_all(&header).is_ok() {
            written += 16;
        }
        Ok::<_, QueueError>(written)
    })?;
    Ok(())
}

/// Every byte of the buffers is a byte of the guest's memory, and they are as long as they say.
pub(in crate::devices::virtio) fn assert_in_memory(memory: &GuestRam, buffers: &GuestBuffers<'_>) {
    let total: usize = buffers.slices().iter().map(VolatileSlice::len).sum();
    assert_eq!(total, buffers.len());
    for slice in buffers.slices() {
        let start = slice.ptr_guard().as_ptr() as usize;
        let inside = memory.iter().any(|region| {
            let base = region
                .get_host_address(MemoryRegionAddress(0))
                .expect("mapped") as usize;
            let len = usize::try_from(region.len()).expect("a 64-bit host");
            base <= start && slice.len() <= len && start - base <= len - slice.len()
        });
        assert!(inside, "a buffer outside the guest's memory");
    }
}
