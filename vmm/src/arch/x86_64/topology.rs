//! How the vCPUs are arranged: one package, each vCPU a core of its own without threads.
//!
//! One package, since Linux calibrates the TSC once for each.

/// The arrangement of a machine's vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    vcpus: u8,
}

impl Topology {
    /// A package of this many cores.
    #[must_use]
    pub fn new(vcpus: u8) -> Self {
        Self { vcpus }
    }

    /// The number of cores.
    #[must_use]
    pub fn cores(self) -> u8 {
        self.vcpus
    }

    /// The APIC identifier of a vCPU.
    #[must_use]
    pub fn apic_id(self, vcpu: u8) -> u8 {
        vcpu
    }

    /// How many low bits of an APIC identifier number the core in its package.
    #[must_use]
    pub fn core_bits(self) -> u32 {
        u32::from(self.vcpus).next_power_of_two().trailing_zeros()
    }

    /// The identifier that the I/O APIC gets: the first that no vCPU has.
    #[must_use]
    pub fn io_apic_id(self) -> u8 {
        self.vcpus
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_bits_number_every_core() {
        let bits = |vcpus| Topology::new(vcpus).core_bits();
        assert_eq!(
            [bits(1), bits(2), bits(3), bits(4), bits(5), bits(32)],
            [0, 1, 2, 2, 3, 5]
        );
    }
}
