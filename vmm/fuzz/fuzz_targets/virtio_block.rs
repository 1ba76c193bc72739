//! Any request against a disk.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmm::devices::virtio::block::hostile::drive(data));
