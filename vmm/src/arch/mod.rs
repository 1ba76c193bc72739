//! What differs between processor architectures: one folder each.
//!
//! A folder offers, under the same names, where memory and devices lie (`layout`), how a kernel is
//! loaded and the machine described to it (`loader`), and how vCPUs are set up (`cpu`).

#[cfg(target_arch = "x86_64")]
pub mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64 as native;

#[cfg(not(target_arch = "x86_64"))]
compile_error!(
    "this VMM runs on x86_64 hosts; another architecture is a folder beside arch/x86_64"
);
