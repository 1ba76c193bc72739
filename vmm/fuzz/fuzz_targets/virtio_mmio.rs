//! Any driver against the registers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmm::devices::virtio::mmio::hostile::drive(data));
