//! Any file as a kernel: ELF, bzImage or neither.
#![no_main]

use std::fs::File;
use std::io::Write;

use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::GuestAddress;
use vmm::arch::native::loader::{Payload, load};
use vmm::memory::allocate;

const MEMORY: u64 = 32 << 20;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut kernel = File::from(memfd_create("kernel", MemfdFlags::CLOEXEC).unwrap());
    kernel.write_all(data).unwrap();
    let ram = allocate(&[(GuestAddress(0), MEMORY)]).unwrap();
    let payload = Payload { kernel: &kernel, initramfs: Some(&kernel), cmdline: b"\0", rsdp: None };
    let _ = load(&ram, MEMORY, &payload);
});
