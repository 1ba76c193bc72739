//! Any driver against a disk behind its registers, with the disk's own thread.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vmm::devices::virtio::block::hostile::drive_through_transport(data);
});
