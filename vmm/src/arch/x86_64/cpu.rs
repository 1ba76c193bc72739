//! Setting up the virtual machine's interrupt controllers and its vCPUs.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_lapic_state, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::loader::Entry;
use super::topology::Topology;
use super::{cpuid, layout, registers};
use crate::kvm::KvmError;

/// `MSR_IA32_MISC_ENABLE`: fast string operations on; branch trace and precise event sampling are
/// unavailable (Intel SDM, volume 4, table 2-2).
const MISC_ENABLE: (u32, u64) = (0x1a0, 1 << 0 | 1 << 11 | 1 << 12);
/// `MSR_MTRRdefType`: enabled, memory is write-back (Intel SDM, volume 3, section 12.11.2.1). Linux
/// complains about a machine whose firmware left them disabled.
const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);

/// Local APIC registers: local interrupt pins 0 and 1, and delivery modes.
const APIC_LVT_LINT0: usize = 0x350;
const APIC_LVT_LINT1: usize = 0x360;
const DELIVERY_MODE_MASK: u32 = 0x700;
const DELIVERY_NMI: u32 = 0x400;
const DELIVERY_EXTINT: u32 = 0x700;

/// Makes the in-kernel interrupt controllers. To be called before vCPUs are made.
///
/// There is no timer chip (PIT): a kernel with kvm-clock knows the TSC's frequency, and with the
/// APIC's deadline timer needs no other.
///
/// # Errors
/// When KVM refuses.
pub fn prepare_vm(vm: &VmFd) -> Result<(), KvmError> {
    vm.set_tss_address(layout::KVM_TSS)
        .map_err(KvmError::refused("set the TSS address"))?;
    vm.create_irq_chip()
        .map_err(KvmError::refused("create the interrupt controllers"))
}

/// What all vCPUs of a machine have in common.
#[derive(Debug)]
pub struct CpuTemplate {
    supported: CpuId,
    topology: Topology,
}

impl CpuTemplate {
    /// Asks KVM, once for all vCPUs, what it supports: CPUID is slow under nested virtualization.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn new(kvm: &Kvm, topology: Topology) -> Result<Self, KvmError> {
        let mut supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::refused("list the supported CPUID"))?;
        // A table without room means a host with more than 250 leaves; the guest then sees a
        // topology leaf with one level, which kernels accept.
        let _ = cpuid::complete(&mut supported);
        Ok(Self {
            supported,
            topology,
        })
    }

    /// Sets up a vCPU as firmware would. All but the first then wait for the guest to start them.
    ///
    /// The floating point unit is left as KVM makes it, which is as FNINIT does.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn set_up(&self, vcpu: &VcpuFd, index: u8) -> Result<(), KvmError> {
        let table = cpuid::for_vcpu(&self.supported, self.topology, index);
        vcpu.set_cpuid2(&table)
            .map_err(KvmError::refused("set the CPUID of a vCPU"))?;
        set_msrs(vcpu)
    }
}

/// Lets the boot vCPU enter the kernel, with the local APIC's pins connected as on a PC. The other
/// vCPUs get both from the guest, which resets them when it starts them.
///
/// # Errors
/// When KVM refuses.
pub fn set_entry(vcpu: &VcpuFd, entry: Entry) -> Result<(), KvmError> {
    let general = registers::general(entry.mode, entry.address);
    vcpu.set_regs(&general)
        .map_err(KvmError::refused("set the registers"))?;
    let mut special = vcpu
        .get_sregs()
        .map_err(KvmError::refused("read the special registers"))?;
    registers::special(entry.mode, &mut special);
    vcpu.set_sregs(&special)
        .map_err(KvmError::refused("set the special registers"))?;
    let mut apic = vcpu
        .get_lapic()
        .map_err(KvmError::refused("read the local APIC"))?;
    set_delivery_mode(&mut apic, APIC_LVT_LINT0, DELIVERY_EXTINT);
    set_delivery_mode(&mut apic, APIC_LVT_LINT1, DELIVERY_NMI);
    vcpu.set_lapic(&apic)
        .map_err(KvmError::refused("set the local APIC"))
}

fn set_msrs(vcpu: &VcpuFd) -> Result<(), KvmError> {
    const REQUEST: &str = "set the MSRs of a vCPU";
    let entries = [MISC_ENABLE, MTRR_DEF_TYPE].map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    });
    let refused = || KvmError::Refused {
        request: REQUEST,
        source: vmm_sys_util::errno::Error::new(libc::EINVAL),
    };
    let msrs = Msrs::from_entries(&entries).map_err(|_| refused())?;
    match vcpu.set_msrs(&msrs).map_err(KvmError::refused(REQUEST))? {
        set if set == entries.len() => Ok(()),
        _ => Err(refused()),
    }
}

/// Changes bits 10:8 of a local vector table entry.
fn set_delivery_mode(apic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let Some(bytes) = apic.regs.get_mut(register..register + 4) else {
        return;
    };
    let mut word = [0; 4];
    for (to, from) in word.iter_mut().zip(bytes.iter()) {
        *to = from.to_ne_bytes()[0];
    }
    let value = u32::from_le_bytes(word) & !DELIVERY_MODE_MASK | mode;
    for (to, from) in bytes.iter_mut().zip(value.to_le_bytes()) {
        *to = i8::from_ne_bytes([from]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_mode_changes_nothing_else() {
        let mut apic = kvm_lapic_state::default();
        apic.regs[APIC_LVT_LINT0] = 0x12;
        apic.regs[APIC_LVT_LINT0 + 2] = 0x01;
        set_delivery_mode(&mut apic, APIC_LVT_LINT0, DELIVERY_EXTINT);
        assert_eq!(apic.regs[APIC_LVT_LINT0..][..4], [0x12, 0x07, 0x01, 0]);
    }
}
