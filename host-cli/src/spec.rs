//! What a sandbox is to be made of, in terms that every tier understands.

use std::time::Duration;

use sandbox_image::{DEFAULT_IMAGE, Overrides};
use serde::{Deserialize, Serialize};

use crate::tier::Tier;

/// As many as our virtual machines have.
pub const MAX_CPUS: u8 = 32;
/// What our guests need at least.
pub const MIN_MEMORY_MIB: u32 = 32;
/// The agent, a session of it, and a command that starts one of its own.
pub const MIN_PROCESSES: u32 = 8;
/// As many as 64-bit Linux can number (proc(5), `pid_max`).
pub const MAX_PROCESSES: u32 = 1 << 22;
/// A file system with a journal, and room for something.
pub const MIN_DISK_MIB: u32 = 32;
/// 1 TiB.
pub const MAX_DISK_MIB: u32 = 1 << 20;

/// What a sandbox is to be made of. A tier that cannot honour what was asked for refuses to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// What it runs on.
    pub image: ImageChoice,
    /// Number of CPUs; one without it.
    pub cpus: Option<u8>,
    /// Memory in MiB; 512 without it.
    pub memory_mib: Option<u32>,
    /// The name that it has for itself; `sandbox` without it.
    pub hostname: Option<String>,
    /// How much may be written to its root file system, in MiB, where that lives in its memory; half
    /// of that without it. With it, nothing that is written is kept.
    pub overlay_mib: Option<u32>,
    /// How much may be written to its root file system, in MiB, where that is kept beyond its end; 8192
    /// without it.
    pub disk_mib: Option<u32>,
    /// What it can reach of a network; nothing without it.
    pub network: Option<Network>,
    /// How many processes and threads it may have; 4096 without it, in a container 2 per MiB of its
    /// memory, 256 to 4096.
    pub processes: Option<u32>,
    /// How long it may take until it can run a command.
    pub boot_timeout: Duration,
}

impl Default for SandboxSpec {
    fn default() -> Self {
        Self {
            image: ImageChoice::default(),
            cpus: None,
            memory_mib: None,
            hostname: None,
            overlay_mib: None,
            disk_mib: None,
            network: None,
            processes: None,
            boot_timeout: Duration::from_secs(30),
        }
    }
}

/// An image, and what of it is replaced by files of one's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageChoice {
    /// The image's name.
    pub name: String,
    /// Whether it was asked for by this name: then a tier that runs no image refuses to start.
    pub is_named: bool,
    /// Files in place of the image's.
    pub overrides: Overrides,
}

impl ImageChoice {
    /// Whether a part of it is the user's own file.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.overrides != Overrides::default()
    }
}

impl Default for ImageChoice {
    fn default() -> Self {
        Self {
            name: DEFAULT_IMAGE.to_owned(),
            is_named: false,
            overrides: Overrides::default(),
        }
    }
}

/// What a sandbox can reach of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Nothing but itself.
    #[default]
    None,
    /// What the host can reach, by a network of its own that the host translates addresses for.
    Bridge,
}

impl Network {
    /// Every one, in the order in which a user is told of them.
    pub const ALL: [Self; 2] = [Self::None, Self::Bridge];

    /// The name that a user types.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Bridge => "bridge",
        }
    }
}

/// What cannot be asked of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Too few or too many CPUs.
    #[error("{cpus} CPUs: a sandbox has 1 to {MAX_CPUS}")]
    Cpus {
        /// What was asked for.
        cpus: u64,
    },
    /// Too little memory.
    #[error("{mib} MiB of memory: a sandbox needs at least {MIN_MEMORY_MIB} MiB")]
    TooLittleMemory {
        /// What was asked for.
        mib: u64,
    },
    /// More memory than there is.
    #[error("{mib} MiB of memory: this machine has {host_mib} MiB")]
    TooMuchMemory {
        /// What was asked for.
        mib: u64,
        /// What this machine has.
        host_mib: u64,
    },
    /// No writable layer at all, or one that memory cannot hold.
    #[error(
        "a writable layer of {overlay_mib} MiB: it lives in memory, so it has 1 to {memory_mib} MiB"
    )]
    Overlay {
        /// What was asked for.
        overlay_mib: u64,
        /// The memory that there is.
        memory_mib: u64,
    },
    /// A disk that is too small or too large.
    #[error("a disk of {mib} MiB: a sandbox has {MIN_DISK_MIB} to {MAX_DISK_MIB} MiB")]
    Disk {
        /// What was asked for.
        mib: u64,
    },
    /// What is written cannot be in memory and on a disk.
    #[error(
        "--disk is what is kept, and --overlay-size what lives in memory and is not: a sandbox has one \
         of them"
    )]
    TwoLayers,
    /// Too few processes, or more than a kernel can number.
    #[error("{processes} processes: a sandbox may have {MIN_PROCESSES} to {MAX_PROCESSES}")]
    Processes {
        /// What was asked for.
        processes: u64,
    },
    /// A name that is not one.
    #[error("host name {name:?}: 1 to 63 letters, digits and hyphens, not at the ends a hyphen")]
    Hostname {
        /// What was asked for.
        name: String,
    },
}

/// Something that was asked for and that the tier that was taken cannot honour.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tier {tier} cannot honour {flag}: {reason}")]
pub struct Unsupported {
    /// The tier.
    pub tier: Tier,
    /// The flag of `sovereign run` that asks for it.
    pub flag: &'static str,
    /// Why it cannot.
    pub reason: &'static str,
}

impl Unsupported {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> String {
        format!("leave {} out, or take a tier that can honour it", self.flag)
    }
}

impl SandboxSpec {
    /// Number of CPUs.
    #[must_use]
    pub const fn cpus(&self) -> u8 {
        match self.cpus {
            Some(cpus) => cpus,
            None => 1,
        }
    }

    /// Memory in MiB.
    #[must_use]
    pub const fn memory_mib(&self) -> u32 {
        match self.memory_mib {
            Some(mib) => mib,
            None => 512,
        }
    }

    /// How much may be written to its root file system, in MiB.
    #[must_use]
    pub const fn overlay_mib(&self) -> u32 {
        match self.overlay_mib {
            Some(mib) => mib,
            None => self.memory_mib() / 2,
        }
    }

    /// How much may be written to its root file system, in MiB, where that is kept.
    #[must_use]
    pub const fn disk_mib(&self) -> u32 {
        match self.disk_mib {
            Some(mib) => mib,
            None => 8192,
        }
    }

    /// What it can reach of a network.
    #[must_use]
    pub fn network(&self) -> Network {
        self.network.unwrap_or_default()
    }

    /// How many processes and threads it may have: what was asked for, or the most of any default.
    #[must_use]
    pub const fn processes(&self) -> u32 {
        match self.processes {
            Some(processes) => processes,
            None => 4096,
        }
    }

    /// The name that it has for itself.
    #[must_use]
    pub fn hostname(&self) -> &str {
        self.hostname.as_deref().unwrap_or("sandbox")
    }

    /// Checks that some sandbox can be as it was asked for, on a machine with this much memory.
    ///
    /// # Errors
    ///
    /// The first thing that is out of its limits.
    pub fn check(&self, host_memory_mib: u64) -> Result<(), SpecError> {
        if let Some(cpus) = self.cpus.filter(|cpus| *cpus == 0 || *cpus > MAX_CPUS) {
            return Err(SpecError::Cpus { cpus: cpus.into() });
        }
        if self.memory_mib.is_some() {
            self.check_as_machine(host_memory_mib)?;
        }
        if let Some(overlay_mib) = self.overlay_mib.map(u64::from)
            && (overlay_mib == 0 || overlay_mib > host_memory_mib)
        {
            return Err(SpecError::Overlay {
                overlay_mib,
                memory_mib: host_memory_mib,
            });
        }
        if let Some(mib) = self.disk_mib {
            if !(MIN_DISK_MIB..=MAX_DISK_MIB).contains(&mib) {
                return Err(SpecError::Disk { mib: mib.into() });
            }
            if self.overlay_mib.is_some() {
                return Err(SpecError::TwoLayers);
            }
        }
        if let Some(processes) = self
            .processes
            .filter(|processes| !(MIN_PROCESSES..=MAX_PROCESSES).contains(processes))
        {
            return Err(SpecError::Processes {
                processes: processes.into(),
            });
        }
        match &self.hostname {
            Some(name) if !is_hostname(name) => Err(SpecError::Hostname { name: name.clone() }),
            _ => Ok(()),
        }
    }

    /// Checks that a virtual machine can have the memory that this sandbox has, asked for or not.
    ///
    /// # Errors
    ///
    /// What is out of its limits.
    pub fn check_as_machine(&self, host_memory_mib: u64) -> Result<(), SpecError> {
        let mib = u64::from(self.memory_mib());
        if self.memory_mib() < MIN_MEMORY_MIB {
            return Err(SpecError::TooLittleMemory { mib });
        }
        if mib > host_memory_mib {
            return Err(SpecError::TooMuchMemory {
                mib,
                host_mib: host_memory_mib,
            });
        }
        match self.overlay_mib.map(u64::from) {
            Some(overlay_mib) if overlay_mib == 0 || overlay_mib > mib => Err(SpecError::Overlay {
                overlay_mib,
                memory_mib: mib,
            }),
            _ => Ok(()),
        }
    }
}

/// RFC 1123, section 2.1, one label.
fn is_hostname(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut SandboxSpec)) -> Result<(), SpecError> {
        let mut spec = SandboxSpec::default();
        change(&mut spec);
        spec.check(4096)
    }

    #[test]
    fn the_default_is_possible() {
        assert_eq!(check(|_| ()), Ok(()));
    }

    #[test]
    fn cpus_have_limits() {
        assert_eq!(check(|spec| spec.cpus = Some(32)), Ok(()));
        assert_eq!(
            check(|spec| spec.cpus = Some(33)),
            Err(SpecError::Cpus { cpus: 33 })
        );
        assert_eq!(
            check(|spec| spec.cpus = Some(0)),
            Err(SpecError::Cpus { cpus: 0 })
        );
    }

    #[test]
    fn memory_has_limits() {
        assert_eq!(check(|spec| spec.memory_mib = Some(32)), Ok(()));
        let error = check(|spec| spec.memory_mib = Some(16)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "16 MiB of memory: a sandbox needs at least 32 MiB"
        );
        let error = check(|spec| spec.memory_mib = Some(4097)).unwrap_err();
        assert_eq!(
            error,
            SpecError::TooMuchMemory {
                mib: 4097,
                host_mib: 4096
            }
        );
    }

    #[test]
    fn the_writable_layer_has_limits() {
        assert_eq!(check(|spec| spec.overlay_mib = Some(4096)), Ok(()));
        assert!(check(|spec| spec.overlay_mib = Some(4097)).is_err());
        assert!(check(|spec| spec.overlay_mib = Some(0)).is_err());
        let with_memory = |spec: &mut SandboxSpec| {
            spec.memory_mib = Some(128);
            spec.overlay_mib = Some(129);
        };
        assert!(check(with_memory).is_err());
    }

    #[test]
    fn what_a_machine_has_by_default_has_limits_too() {
        let spec = SandboxSpec {
            overlay_mib: Some(513),
            ..SandboxSpec::default()
        };
        assert_eq!(spec.check(4096), Ok(()));
        assert!(spec.check_as_machine(4096).is_err());
        assert!(SandboxSpec::default().check_as_machine(511).is_err());
        assert_eq!(SandboxSpec::default().check(511), Ok(()));
    }

    #[test]
    fn a_disk_has_limits() {
        assert_eq!(SandboxSpec::default().disk_mib(), 8192);
        for mib in [MIN_DISK_MIB, MAX_DISK_MIB] {
            assert_eq!(check(|spec| spec.disk_mib = Some(mib)), Ok(()));
        }
        for mib in [0, MIN_DISK_MIB - 1, MAX_DISK_MIB + 1] {
            let error = check(|spec| spec.disk_mib = Some(mib)).unwrap_err();
            assert!(error.to_string().contains("32 to 1048576 MiB"), "{error}");
        }
        let both = |spec: &mut SandboxSpec| {
            spec.disk_mib = Some(64);
            spec.overlay_mib = Some(64);
        };
        assert_eq!(check(both), Err(SpecError::TwoLayers));
    }

    #[test]
    fn processes_have_limits() {
        assert_eq!(SandboxSpec::default().processes(), 4096);
        assert_eq!(check(|spec| spec.processes = Some(8)), Ok(()));
        for processes in [0, 7, MAX_PROCESSES + 1] {
            let error = check(|spec| spec.processes = Some(processes)).unwrap_err();
            assert!(error.to_string().contains("8 to 4194304"), "{error}");
        }
    }

    #[test]
    fn host_names_are_single_labels() {
        for good in ["a", "box-7", "A1"] {
            assert_eq!(
                check(|spec| spec.hostname = Some(good.to_owned())),
                Ok(()),
                "{good}"
            );
        }
        for bad in ["", "-a", "a-", "a.b", "a b", "a\nb", &"x".repeat(64)] {
            assert!(
                check(|spec| spec.hostname = Some(bad.to_owned())).is_err(),
                "{bad:?}"
            );
        }
    }
}
