//! What the guest's CPUs say they are: what KVM supports, less what makes no sense for a guest, with
//! the machine's own topology.
//!
//! Leaves are those of the Intel SDM (volume 2, CPUID) and the AMD APM (volume 3, appendix E).

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::topology::Topology;

/// Leaf 1, ECX: features that a guest is not to see.
mod leaf1_ecx {
    pub(super) const DTES64: u32 = 1 << 2;
    pub(super) const MONITOR: u32 = 1 << 3;
    pub(super) const DS_CPL: u32 = 1 << 4;
    pub(super) const VMX: u32 = 1 << 5;
    pub(super) const SMX: u32 = 1 << 6;
    pub(super) const EIST: u32 = 1 << 7;
    pub(super) const TM2: u32 = 1 << 8;
    pub(super) const PDCM: u32 = 1 << 15;
    pub(super) const X2APIC: u32 = 1 << 21;
    pub(super) const TSC_DEADLINE: u32 = 1 << 24;
    pub(super) const HYPERVISOR: u32 = 1 << 31;
    pub(super) const HIDDEN: u32 = DTES64 | MONITOR | DS_CPL | VMX | SMX | EIST | TM2 | PDCM;
}

/// Leaf 1, EDX: debug store, and more than one logical processor in the package.
const LEAF1_EDX_DS: u32 = 1 << 21;
const LEAF1_EDX_HTT: u32 = 1 << 28;
/// Leaf 6, EAX: the APIC timer runs at a constant rate in every sleep state.
const LEAF6_EAX_ARAT: u32 = 1 << 2;
/// Leaf 0x8000_0001, ECX.
const EXT1_ECX_CMP_LEGACY: u32 = 1 << 1;
const EXT1_ECX_HIDDEN: u32 = SVM | IBS | SKINIT | WDT | NODE_ID | PERF_CORE | PERF_NB | PERF_L3;
const SVM: u32 = 1 << 2;
const IBS: u32 = 1 << 10;
const SKINIT: u32 = 1 << 12;
const WDT: u32 = 1 << 13;
const NODE_ID: u32 = 1 << 19;
const PERF_CORE: u32 = 1 << 23;
const PERF_NB: u32 = 1 << 24;
const PERF_L3: u32 = 1 << 28;

/// Level types of leaves 0xB and 0x1F, shifted to ECX[15:8].
const LEVEL_SMT: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// Makes the CPUID table of one vCPU from the table that KVM supports.
#[must_use]
pub fn for_vcpu(supported: &CpuId, topology: Topology, vcpu: u8) -> CpuId {
    let mut table = supported.clone();
    let apic_id = u32::from(topology.apic_id(vcpu));
    let cores = u32::from(topology.cores());
    for entry in table.as_mut_slice() {
        match entry.function {
            0x1 => features(entry, apic_id, cores),
            0x4 => caches(entry, cores),
            0x6 => {
                let arat = entry.eax & LEAF6_EAX_ARAT;
                clear(entry);
                entry.eax = arat;
            }
            // Performance monitoring, processor trace; AMD: SVM, memory encryption, IBS and
            // performance monitoring again.
            0xa | 0x14 | 0x8000_000a | 0x8000_001b | 0x8000_001f | 0x8000_0022 => clear(entry),
            0xb | 0x1f => extended_topology(entry, topology, apic_id),
            0x8000_0001 => {
                entry.ecx &= !EXT1_ECX_HIDDEN;
                if cores > 1 {
                    entry.ecx |= EXT1_ECX_CMP_LEGACY;
                }
            }
            0x8000_0008 => {
                // ECX[7:0]: cores less one; ECX[15:12]: bits of the APIC id that number them.
                entry.ecx = (cores - 1) | topology.core_bits() << 12;
            }
            0x8000_001d => amd_caches(entry, cores),
            0x8000_001e => {
                // EBX[15:8]: threads per core less one, EBX[7:0]: core; ECX: node, and nodes.
                entry.eax = apic_id;
                entry.ebx = apic_id;
                entry.ecx = 0;
            }
            _ => {}
        }
    }
    table
}

fn clear(entry: &mut kvm_cpuid_entry2) {
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
}

fn features(entry: &mut kvm_cpuid_entry2, apic_id: u32, cores: u32) {
    entry.ecx &= !leaf1_ecx::HIDDEN;
    // The in-kernel local APIC always has the deadline timer, though KVM did not always list it.
    // Without it Linux spends 120 ms on calibrating the APIC timer.
    entry.ecx |= leaf1_ecx::TSC_DEADLINE | leaf1_ecx::HYPERVISOR;
    entry.edx &= !(LEAF1_EDX_DS | LEAF1_EDX_HTT);
    if cores > 1 {
        entry.edx |= LEAF1_EDX_HTT;
    } else {
        // Linux saves and restores the whole I/O APIC, at 200 exits, to switch to x2APIC. What that
        // is good for is cheap interrupts to other CPUs: the timer's deadline and the end of an
        // interrupt need no register of the APIC in a KVM guest.
        entry.ecx &= !leaf1_ecx::X2APIC;
    }
    // EBX[31:24]: APIC id, EBX[23:16]: addressable logical processors, EBX[15:8]: CLFLUSH size.
    entry.ebx = (entry.ebx & 0xffff) | cores.next_power_of_two() << 16 | apic_id << 24;
}

/// Leaf 4: EAX[4:0] cache type, EAX[7:5] level, EAX[25:14] sharers less one, EAX[31:26] cores less one.
fn caches(entry: &mut kvm_cpuid_entry2, cores: u32) {
    if entry.eax & 0x1f == 0 {
        return;
    }
    let sharers = if level(entry) >= 3 { cores } else { 1 };
    entry.eax = (entry.eax & 0x3fff)
        | (sharers.next_power_of_two() - 1) << 14
        | (cores.next_power_of_two() - 1) << 26;
}

/// Leaf 0x8000_001D: as leaf 4, without the cores.
fn amd_caches(entry: &mut kvm_cpuid_entry2, cores: u32) {
    if entry.eax & 0x1f == 0 {
        return;
    }
    let sharers = if level(entry) >= 3 { cores } else { 1 };
    entry.eax = (entry.eax & 0x3fff) | (sharers - 1) << 14;
}

fn level(entry: &kvm_cpuid_entry2) -> u32 {
    entry.eax >> 5 & 0x7
}

/// Leaves 0xB and 0x1F: one level of threads, one of cores, then the end of the list.
fn extended_topology(entry: &mut kvm_cpuid_entry2, topology: Topology, apic_id: u32) {
    let (shift, processors, level) = match entry.index {
        0 => (0, 1, LEVEL_SMT),
        1 => (
            topology.core_bits(),
            u32::from(topology.cores()),
            LEVEL_CORE,
        ),
        _ => (0, 0, 0),
    };
    entry.flags |= KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    entry.eax = shift;
    entry.ebx = processors;
    entry.ecx = level | entry.index & 0xff;
    entry.edx = apic_id;
}

/// Adds what KVM's table lacks: the second level of the topology leaves, which KVM lists with one
/// subleaf on hosts whose own topology has fewer levels.
///
/// # Errors
/// When the table has no room.
pub fn complete(supported: &mut CpuId) -> Result<(), vmm_sys_util::fam::Error> {
    for leaf in [0xb, 0x1f] {
        let subleaves = supported
            .as_slice()
            .iter()
            .filter(|entry| entry.function == leaf)
            .count();
        if subleaves == 0 {
            continue;
        }
        for index in (0..3).skip(subleaves) {
            supported.push(kvm_cpuid_entry2 {
                function: leaf,
                index,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                ..kvm_cpuid_entry2::default()
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: 0xffff_ffff,
            ebx: 0xffff_ffff,
            ecx: 0xffff_ffff,
            edx: 0xffff_ffff,
            ..kvm_cpuid_entry2::default()
        }
    }

    fn table(entries: &[kvm_cpuid_entry2]) -> CpuId {
        let mut table = CpuId::from_entries(entries).unwrap();
        complete(&mut table).unwrap();
        table
    }

    fn find(table: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *table
            .as_slice()
            .iter()
            .find(|entry| entry.function == function && entry.index == index)
            .unwrap()
    }

    #[test]
    fn nested_virtualization_and_monitoring_are_hidden() {
        let host = table(&[
            entry(1, 0),
            entry(0xa, 0),
            entry(0x8000_0001, 0),
            entry(0x8000_000a, 0),
        ]);
        let guest = for_vcpu(&host, Topology::new(1), 0);
        assert_eq!(
            find(&guest, 1, 0).ecx & (leaf1_ecx::VMX | leaf1_ecx::PDCM),
            0
        );
        assert_ne!(find(&guest, 1, 0).ecx & leaf1_ecx::HYPERVISOR, 0);
        assert_eq!(find(&guest, 0xa, 0).eax, 0);
        assert_eq!(find(&guest, 0x8000_0001, 0).ecx & SVM, 0);
        assert_eq!(find(&guest, 0x8000_000a, 0).edx, 0);
    }

    #[test]
    fn deadline_timer_is_offered_even_if_kvm_does_not_list_it() {
        let mut leaf = entry(1, 0);
        leaf.ecx = 0;
        let guest = for_vcpu(&table(&[leaf]), Topology::new(1), 0);
        assert_ne!(find(&guest, 1, 0).ecx & leaf1_ecx::TSC_DEADLINE, 0);
    }

    #[test]
    fn each_vcpu_has_its_apic_id_in_every_leaf() {
        let host = table(&[
            entry(1, 0),
            entry(0xb, 0),
            entry(0x1f, 0),
            entry(0x8000_001e, 0),
        ]);
        let guest = for_vcpu(&host, Topology::new(6), 5);
        assert_eq!(find(&guest, 1, 0).ebx >> 24, 5);
        assert_eq!(find(&guest, 0xb, 1).edx, 5);
        assert_eq!(find(&guest, 0x1f, 0).edx, 5);
        assert_eq!(find(&guest, 0x8000_001e, 0).eax, 5);
    }

    #[test]
    fn topology_leaves_name_cores_and_end() {
        let guest = for_vcpu(&table(&[entry(0xb, 0)]), Topology::new(6), 0);
        let (threads, cores) = (find(&guest, 0xb, 0), find(&guest, 0xb, 1));
        assert_eq!((threads.eax, threads.ebx, threads.ecx), (0, 1, LEVEL_SMT));
        assert_eq!((cores.eax, cores.ebx, cores.ecx), (3, 6, LEVEL_CORE | 1));
        assert_eq!(find(&guest, 0xb, 2).ebx, 0);
    }

    #[test]
    fn single_core_is_no_multiprocessor() {
        let guest = for_vcpu(
            &table(&[entry(1, 0), entry(0x8000_0008, 0)]),
            Topology::new(1),
            0,
        );
        assert_eq!(find(&guest, 1, 0).edx & LEAF1_EDX_HTT, 0);
        assert_eq!(find(&guest, 0x8000_0008, 0).ecx & 0xff, 0);
    }

    #[test]
    fn last_level_cache_is_shared_and_others_are_private() {
        let cache = |level: u32| kvm_cpuid_entry2 {
            function: 4,
            index: level,
            eax: 1 | level << 5,
            ..kvm_cpuid_entry2::default()
        };
        let guest = for_vcpu(&table(&[cache(1), cache(3)]), Topology::new(4), 0);
        assert_eq!(find(&guest, 4, 1).eax >> 14 & 0xfff, 0);
        assert_eq!(find(&guest, 4, 3).eax >> 14 & 0xfff, 3);
        assert_eq!(find(&guest, 4, 3).eax >> 26, 3);
    }
}
