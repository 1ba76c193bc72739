//! Any guest and any hosts against the socket device.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmm::devices::virtio::vsock::hostile::drive(data));
