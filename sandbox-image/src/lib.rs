//! Sandbox images: building, verifying, keeping and finding them.
//!
//! An image is three files: a guest kernel, an initramfs that holds the agent, and a root file
//! system. [`build()`] makes them, a [`Store`] keeps them under a name, and [`Store::find`] gives
//! them back as an [`Image`] after checking that each is what was stored.
//!
//! ```text
//!  kernel sources ──▶ kernel  ┐
//!  agent binary   ──▶ cpio    ├─ Cache ─▶ checks ─▶ Store::publish ─▶ Store::find ─▶ Image
//!  Debian archive ──▶ rootfs  ┘
//! ```

pub mod agent;
pub mod apts;
pub mod build;
pub mod cache;
pub mod cpio;
pub mod digest;
pub mod erofs;
pub mod image;
pub mod initramfs;
pub mod kernel;
pub mod lock;
pub mod manifest;
pub mod own_kernel;
pub mod progress;
pub mod rootfs;
pub mod space;
pub mod store;
pub mod tool;

pub use build::{BuildError, BuildOptions, Refusal, build};
pub use image::{DEFAULT_IMAGE, Image, OverrideError, Overrides};
pub use manifest::Manifest;
pub use progress::Progress;
pub use store::{Store, StoreError, Summary};
