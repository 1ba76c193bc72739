//! What this machine's processor says about virtualization, from the CPUID instruction: one
//! instruction in place of a file that lists every CPU.

/// What matters of CPUID here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Processor {
    /// Intel VMX or AMD SVM is there, so that the kernel of a guest can run.
    pub(super) virtualization: bool,
    /// The kernel module that drives it.
    pub(super) module: &'static str,
    /// This machine is itself a virtual one.
    pub(super) is_virtual: bool,
}

#[cfg(target_arch = "x86_64")]
impl Processor {
    /// Asks the processor that this runs on.
    pub(super) fn read() -> Self {
        use std::arch::x86_64::__cpuid;

        let vendor = __cpuid(0);
        let features = __cpuid(1).ecx;
        let extended = if __cpuid(EXTENDED).eax > EXTENDED {
            __cpuid(EXTENDED + 1).ecx
        } else {
            0
        };
        // The vendor's name is in EBX, EDX, ECX; its first four letters are enough.
        let is_amd = vendor.ebx == u32::from_le_bytes(*b"Auth")
            || vendor.ebx == u32::from_le_bytes(*b"Hygo");
        Self {
            virtualization: features & VMX != 0 || extended & SVM != 0,
            module: if is_amd { "kvm_amd" } else { "kvm_intel" },
            is_virtual: features & HYPERVISOR != 0,
        }
    }
}

/// Intel SDM, volume 2A, CPUID, leaf 1, ECX bit 5: VMX.
#[cfg(target_arch = "x86_64")]
const VMX: u32 = 1 << 5;

/// AMD64 APM, volume 3, appendix E, leaf 1, ECX bit 31: reserved for hypervisors to show that they
/// are there.
#[cfg(target_arch = "x86_64")]
const HYPERVISOR: u32 = 1 << 31;

/// AMD64 APM, volume 3, appendix E, leaf 8000_0001, ECX bit 2: SVM.
#[cfg(target_arch = "x86_64")]
const SVM: u32 = 1 << 2;

/// The first extended leaf, which tells the greatest one in EAX.
#[cfg(target_arch = "x86_64")]
const EXTENDED: u32 = 0x8000_0000;

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_instruction_and_the_kernel_agree() {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags: Vec<_> = text
            .lines()
            .find_map(|line| line.strip_prefix("flags"))
            .unwrap()
            .split_whitespace()
            .collect();
        let processor = Processor::read();
        let expected = flags.contains(&"vmx") || flags.contains(&"svm");
        assert_eq!(processor.virtualization, expected);
        assert_eq!(processor.is_virtual, flags.contains(&"hypervisor"));
        let amd = text.contains("AuthenticAMD") || text.contains("HygonGenuine");
        assert_eq!(processor.module, if amd { "kvm_amd" } else { "kvm_intel" });
    }
}
