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
//!
//! Images are built, kept and found where Linux guests run. Elsewhere this crate says what they are.

#[cfg(unix)]
pub mod agent;
#[cfg(unix)]
pub mod apts;
#[cfg(unix)]
pub mod archive;
#[cfg(unix)]
pub mod build;
#[cfg(unix)]
pub mod cache;
pub mod cpio;
pub mod digest;
pub mod erofs;
pub mod image;
#[cfg(unix)]
pub mod initramfs;
#[cfg(unix)]
pub mod kernel;
#[cfg(unix)]
pub mod lock;
pub mod manifest;
pub mod own_kernel;
pub mod progress;
#[cfg(unix)]
pub mod rootfs;
#[cfg(unix)]
pub mod space;
#[cfg(unix)]
pub mod store;
#[cfg(unix)]
pub mod tool;

#[cfg(unix)]
pub use build::{BuildError, BuildOptions, Refusal, build};
pub use image::{DEFAULT_IMAGE, Image, OverrideError, Overrides};
pub use manifest::Manifest;
pub use progress::Progress;
#[cfg(unix)]
pub use store::{Store, StoreError, Summary};
