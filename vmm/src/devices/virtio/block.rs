//! The block device (virtio 1.2, section 5.2): a raw image file as a disk.
//!
//! ```text
//!   vCPU thread                          blk-N
//!   activate ──── queue, memory ───────▶ wait for a kick ◀─┐
//!   reset    ──── stop, and wait ──────▶ read, write, ...  ┘
//! ```
//!
//! Each disk has a thread of its own, so that a slow disk keeps nobody else waiting. Data goes
//! between the file and guest memory in one system call, without a copy in between. The image is not
//! mapped: a file that is truncated underneath would then kill the VMM, while a read that comes back
//! short is an error for the guest.

mod config;
#[cfg(any(test, feature = "test-support"))]
pub mod hostile;
mod image;
pub mod lanes;
mod medium;
mod request;
mod syscalls;
#[cfg(test)]
mod tests;
mod worker;

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::queue::VirtQueue;
use super::{ActivateError, DeviceResources, TRANSPORT_FEATURES, VirtioDevice};
use config::{ConfigSpace, features};
use image::Image;
use medium::Medium as _;
use request::Disk;
use worker::{Job, Worker};

pub use image::BlockError;

/// Device number (virtio 1.2, section 5).
const ID_BLOCK: u32 = 2;

/// Room for as many requests as a guest's block layer keeps under way for a fast disk. A larger ring
/// costs the guest boot time: its driver prepares a request for every entry.
const QUEUE_SIZE: u16 = 128;

/// A block device.
pub struct Block {
    index: usize,
    image: Arc<Image>,
    config: ConfigSpace,
    features: u64,
    worker: Option<Worker>,
}

impl Block {
    /// Opens the raw image at `path` as the disk with the number `index`.
    ///
    /// A writable image is locked for this sandbox alone, a read-only one for readers.
    ///
    /// # Errors
    /// Names the file, and what to do about it.
    pub fn open(path: &Path, read_only: bool, index: usize) -> Result<Self, BlockError> {
        let image = Image::open(path, read_only)?;
        let config = ConfigSpace::new(image.sectors(), QUEUE_SIZE);
        let features = TRANSPORT_FEATURES | features(read_only, image.punches_holes());
        Ok(Self {
            index,
            image: Arc::new(image),
            config,
            features,
            worker: None,
        })
    }

    /// Starts the disk's thread, `blk-N`, ahead of its need: otherwise a vCPU thread has to, when
    /// the guest's driver is ready. `prepare` runs first in the new thread, to confine it.
    ///
    /// The thread then makes these system calls: `futex`, `poll`, `read` and `write` (event
    /// descriptors), `preadv`, `pwritev`, `fdatasync`, `fallocate`; and the allocator's.
    ///
    /// # Errors
    /// The host has no threads left.
    pub fn start_worker(&mut self, prepare: impl FnOnce() + Send + 'static) -> io::Result<()> {
        if self.worker.is_none() {
            self.worker = Some(Worker::spawn(self.index, prepare)?);
        }
        Ok(())
    }
}

impl VirtioDevice for Block {
    fn device_id(&self) -> u32 {
        ID_BLOCK
    }

    fn max_queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn offered_features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    /// Nothing in it can be written: `CONFIG_WCE` is not offered.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, resources: DeviceResources) -> Result<(), ActivateError> {
        let DeviceResources {
            memory,
            queues,
            interrupt,
            features,
        } = resources;
        let Some(queue) = queues.into_iter().next().flatten() else {
            return Err(ActivateError("its queue is not ready".into()));
        };
        self.start_worker(|| ())
            .map_err(|error| ActivateError(format!("cannot start its thread: {error}")))?;
        let name = format!("sovereign-{}", self.index);
        let disk = Disk::new(Arc::clone(&self.image), &name, features);
        let job = Job {
            queue: VirtQueue::new(queue),
            memory,
            interrupt,
            disk,
        };
        let started = self.worker.as_mut().is_some_and(|worker| worker.start(job));
        if !started {
            return Err(ActivateError(
                "its thread still waits for the host's disk".into(),
            ));
        }
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(worker) = &mut self.worker {
            worker.stop();
        }
    }
}
