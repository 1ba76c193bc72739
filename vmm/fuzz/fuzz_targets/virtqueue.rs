//! Any driver against the rings.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmm::devices::virtio::queue::hostile::drive(data));
