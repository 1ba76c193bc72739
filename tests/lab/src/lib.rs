//! The KVM lab: real guests on a machine that cannot run them.
//!
//! QEMU's software emulation offers SVM with nested paging, so a machine without hardware
//! virtualization can still hold a whole Linux host with a real `/dev/kvm`, in which a VMM boots a
//! real, unmodified guest. The lab is that host: Debian's stock cloud kernel on a disk made for one
//! [`Job`], a busybox init, and nothing else.
//!
//! ```text
//!   here          QEMU (TCG, 1 CPU, SVM)
//!   ────          ───────────────────────────────────────────────────────
//!   Parts    ──▶  vmlinuz, busybox, kvm-amd.ko              from Debian's packages, cached
//!   Job      ──▶  /dev/nvme0n1 (ext4): its files, /lab/job
//!   output   ◀──  /dev/ttyS1: what the job prints, live
//!   console  ◀──  /dev/ttyS0: the kernel, and "@lab exit N" as the last word
//!   out/     ◀──  /out on the disk, read once the machine is off
//! ```
//!
//! In [`Mode::Counted`] the virtual clock advances one nanosecond for each instruction executed, so
//! times taken inside count instructions and repeat to a tenth of a per cent. What that does not
//! show: the cost of a real VM exit, caches, disks.

mod disk;
mod job;
mod machine;
mod parts;
mod pulse;
mod tools;

pub use job::{Job, Mode};
pub use machine::{LabDied, Outcome, run, shell};
pub use parts::Parts;
pub use tools::cache_dir;
