//! A small KVM virtual machine monitor that knows nothing of agents, tiers or images.
//!
//! ```text
//!                 MachineConfig                         control socket
//!                       │                                     │
//!                ┌──────▼──────┐    start    ┌─────────┐   ┌──▼──────┐
//!                │   machine   ├────────────▶│ Running │◀──┤ process │  sovereign-vmm
//!                └──────┬──────┘             └────┬────┘   └──┬──────┘
//!        memory · arch · kvm · devices            │        confine
//!                                        ┌────────┴────────┐
//!                      vcpu-N: run, exit ─▶ bus ─▶ devices  vmm-io: doorbells, sockets ─▶ devices
//! ```
//!
//! [`machine::Machine`] builds a machine in the calling process. [`process`] is the `sovereign-vmm`
//! binary around it: one confined process a machine, which speaks [`control`] with its owner.

pub mod arch;
pub mod bus;
pub mod cmdline;
pub mod config;
pub mod confine;
pub mod control;
pub mod devices;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod process;
pub mod stop;
pub mod vcpu;
