//! Whether KVM can run a guest here, and if not, why and what to do about it.
//!
//! "`/dev/kvm` opens" is not "a guest boots": a machine can answer every ioctl and still have no
//! hardware to run a guest's kernel on. So the processor is asked too.

use std::io;
use std::os::linux::fs::MetadataExt;
use std::path::Path;

use kvm_ioctls::{Cap, Kvm};

use super::cpu::Processor;
use crate::error::ErrorKind;
use crate::tier::facts::Unavailable;

const DEVICE: &str = "/dev/kvm";

/// The stable version of KVM's interface; it has been the only one since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// As far as costs next to nothing: what comes after it will be found out by the start.
    Quick,
    /// A virtual machine is made and thrown away again.
    Full,
}

/// Why KVM cannot run a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KvmFault {
    /// There is no device.
    NoDevice(MissingDevice),
    /// The device is there, but not for us.
    Denied(Denied),
    /// The device cannot be opened for another reason.
    CannotOpen(String),
    /// Another interface than ours.
    Version(i32),
    /// The device answers, but there is no hardware to run a guest's kernel on.
    NoVirtualization,
    /// KVM lacks something that the VMM needs.
    Lacks(&'static str),
    /// No virtual machine can be made.
    CannotCreate(i32),
}

/// Why there is no device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MissingDevice {
    /// The driver is loaded, so the device is only not visible here: a container.
    Hidden,
    /// The processor could, but the driver is not loaded.
    NotLoaded(&'static str),
    /// This is a virtual machine, and it was not given virtualization.
    NotNested,
    /// The processor does not offer it: switched off in the firmware, or not there at all.
    SwitchedOff,
}

/// Who may open the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Denied {
    /// Its permission bits.
    pub(super) mode: u32,
    /// Its owner and group, as names where there are any.
    pub(super) owner: String,
    pub(super) group: String,
    /// The group may read and write.
    pub(super) group_may: bool,
    /// This process is a member of the group.
    pub(super) in_group: bool,
    /// This process is root.
    pub(super) is_root: bool,
}

/// Finds out whether KVM can run a guest here.
pub(super) fn check(depth: Depth) -> Result<(), KvmFault> {
    let processor = Processor::read();
    let kvm = Kvm::new().map_err(|error| cannot_open(error.errno(), processor))?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(KvmFault::Version(version));
    }
    if !processor.virtualization {
        return Err(KvmFault::NoVirtualization);
    }
    if depth == Depth::Full {
        check_fully(&kvm)
    } else {
        Ok(())
    }
}

fn check_fully(kvm: &Kvm) -> Result<(), KvmFault> {
    let needed = [
        (
            Cap::Irqchip,
            "an interrupt controller in the kernel (KVM_CAP_IRQCHIP)",
        ),
        (
            Cap::Ioeventfd,
            "event descriptors for doorbells (KVM_CAP_IOEVENTFD)",
        ),
        (
            Cap::Irqfd,
            "event descriptors for interrupts (KVM_CAP_IRQFD)",
        ),
        (
            Cap::UserMemory,
            "guest memory from user space (KVM_CAP_USER_MEMORY)",
        ),
        (
            Cap::ImmediateExit,
            "immediate exits (KVM_CAP_IMMEDIATE_EXIT)",
        ),
    ];
    for (capability, name) in needed {
        if !kvm.check_extension(capability) {
            return Err(KvmFault::Lacks(name));
        }
    }
    kvm.create_vm()
        .map(drop)
        .map_err(|error| KvmFault::CannotCreate(error.errno()))
}

fn cannot_open(errno: i32, processor: Processor) -> KvmFault {
    match errno {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => {
            let loaded = Path::new("/sys/module").join(processor.module).exists();
            KvmFault::NoDevice(MissingDevice::why(loaded, processor))
        }
        libc::EACCES | libc::EPERM => match Denied::look() {
            Ok(denied) => KvmFault::Denied(denied),
            Err(error) => KvmFault::CannotOpen(error.to_string()),
        },
        errno => KvmFault::CannotOpen(io::Error::from_raw_os_error(errno).to_string()),
    }
}

impl MissingDevice {
    fn why(loaded: bool, processor: Processor) -> Self {
        if loaded {
            Self::Hidden
        } else if processor.virtualization {
            Self::NotLoaded(processor.module)
        } else if processor.is_virtual {
            Self::NotNested
        } else {
            Self::SwitchedOff
        }
    }
}

impl Denied {
    fn look() -> io::Result<Self> {
        let device = std::fs::metadata(DEVICE)?;
        let (mode, gid) = (device.st_mode() & 0o777, device.st_gid());
        let groups = rustix::process::getgroups().unwrap_or_default();
        Ok(Self {
            mode,
            owner: name_of("/etc/passwd", device.st_uid()),
            group: name_of("/etc/group", gid),
            group_may: mode & 0o060 == 0o060,
            in_group: groups.iter().any(|group| group.as_raw() == gid)
                || rustix::process::getegid().as_raw() == gid,
            is_root: rustix::process::geteuid().is_root(),
        })
    }
}

/// The name of a user or group, or its number if it has none.
fn name_of(file: &str, id: u32) -> String {
    let wanted = id.to_string();
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == wanted).then(|| name.to_owned())
        })
        .unwrap_or(wanted)
}

impl From<KvmFault> for Unavailable {
    fn from(fault: KvmFault) -> Self {
        Self {
            code: fault.kind(),
            cause: fault.cause(),
            remedy: fault.remedy(),
        }
    }
}

/// What continuous integration needs: its user is in no group that matters.
const UDEV_RULE: &str = "echo 'KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0666\", \
    OPTIONS+=\"static_node=kvm\"' | sudo tee /etc/udev/rules.d/99-kvm.rules && \
    sudo udevadm control --reload-rules && sudo udevadm trigger --name-match=kvm";

impl KvmFault {
    const fn kind(&self) -> ErrorKind {
        match self {
            Self::NoDevice(_) => ErrorKind::KvmMissing,
            Self::Denied(_) => ErrorKind::KvmPermission,
            Self::CannotOpen(_) => ErrorKind::KvmUnusable,
            Self::Version(_) => ErrorKind::KvmVersion,
            Self::NoVirtualization => ErrorKind::NoHardwareVirtualization,
            Self::Lacks(_) => ErrorKind::KvmTooOld,
            Self::CannotCreate(_) => ErrorKind::KvmCreateFailed,
        }
    }

    fn cause(&self) -> String {
        match self {
            Self::NoDevice(missing) => format!("there is no {DEVICE}: {}", missing.cause()),
            Self::Denied(denied) => denied.cause(),
            Self::CannotOpen(error) => format!("{DEVICE} cannot be opened: {error}"),
            Self::Version(found) => {
                format!("{DEVICE} speaks version {found} of its interface, not {API_VERSION}")
            }
            Self::NoVirtualization => format!(
                "{DEVICE} opens, but this CPU exposes neither VMX nor SVM: a stock kernel will \
                 not boot here"
            ),
            Self::Lacks(what) => format!("this kernel's KVM lacks {what}"),
            Self::CannotCreate(errno) => format!(
                "KVM makes no virtual machine: {}",
                io::Error::from_raw_os_error(*errno)
            ),
        }
    }

    fn remedy(&self) -> Option<String> {
        let remedy = match self {
            Self::NoDevice(missing) => missing.remedy(),
            Self::Denied(denied) => denied.remedy(),
            Self::CannotOpen(_) | Self::Version(_) => return None,
            Self::NoVirtualization => "use a machine with hardware virtualization; if this is a \
                virtual one, have nested virtualization switched on for it"
                .to_owned(),
            Self::Lacks(_) => "use Linux 4.12 or newer".to_owned(),
            Self::CannotCreate(libc::EBUSY) => {
                "another hypervisor (VirtualBox, VMware) holds the CPU: stop its machines"
                    .to_owned()
            }
            Self::CannotCreate(libc::ENOMEM) => "free some memory".to_owned(),
            Self::CannotCreate(_) => {
                "see what the kernel says: sudo dmesg | grep -i kvm".to_owned()
            }
        };
        Some(remedy)
    }
}

impl MissingDevice {
    const fn cause(self) -> &'static str {
        match self {
            Self::Hidden => {
                "the driver is loaded, but the device is not visible here, as in a \
                container that was not given it"
            }
            Self::NotLoaded(_) => "the driver is not loaded",
            Self::NotNested => "this is a virtual machine without nested virtualization",
            Self::SwitchedOff => "this CPU exposes neither VMX nor SVM",
        }
    }

    fn remedy(self) -> String {
        match self {
            Self::Hidden => "start the container with --device /dev/kvm".to_owned(),
            Self::NotLoaded(module) => format!("sudo modprobe {module}"),
            Self::NotNested => "switch nested virtualization on for this machine, in the settings \
                of its hypervisor or cloud"
                .to_owned(),
            Self::SwitchedOff => "switch virtualization (VT-x, AMD-V, SVM) on in the firmware's \
                set-up"
                .to_owned(),
        }
    }
}

impl Denied {
    fn cause(&self) -> String {
        let Self {
            mode, owner, group, ..
        } = self;
        let state = format!("{DEVICE} is {mode:04o} {owner}:{group}");
        if self.is_root {
            format!("{state}, you are root, and still it is denied, as by a container's rules")
        } else if !self.group_may {
            format!("{state}, so only {owner} may use it")
        } else if self.in_group {
            format!(
                "{state}, you are in {group}, and still it is denied, as by a container's rules"
            )
        } else {
            format!("{state} and you are not in {group}")
        }
    }

    fn remedy(&self) -> String {
        if self.is_root || (self.group_may && self.in_group) {
            "start the container with --device /dev/kvm".to_owned()
        } else if self.group_may {
            let group = &self.group;
            format!("sudo usermod -aG {group} \"$USER\", then log in again; in CI: {UDEV_RULE}")
        } else {
            UDEV_RULE.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn processor(virtualization: bool, is_virtual: bool) -> Processor {
        Processor {
            virtualization,
            module: "kvm_intel",
            is_virtual,
        }
    }

    fn denied(mode: u32, in_group: bool, is_root: bool) -> Unavailable {
        KvmFault::Denied(Denied {
            mode,
            owner: "root".to_owned(),
            group: "kvm".to_owned(),
            group_may: mode & 0o060 == 0o060,
            in_group,
            is_root,
        })
        .into()
    }

    #[test]
    fn the_usual_lack_of_a_group_is_told_with_the_command_that_helps() {
        let reason = denied(0o660, false, false);
        assert_eq!(
            reason.cause,
            "/dev/kvm is 0660 root:kvm and you are not in kvm"
        );
        let remedy = reason.remedy.unwrap();
        assert!(
            remedy.starts_with("sudo usermod -aG kvm \"$USER\""),
            "{remedy}"
        );
        assert!(remedy.contains("99-kvm.rules"), "{remedy}");
    }

    #[test]
    fn a_device_for_root_alone_is_not_blamed_on_a_group() {
        let reason = denied(0o600, false, false);
        assert_eq!(
            reason.cause,
            "/dev/kvm is 0600 root:kvm, so only root may use it"
        );
        assert!(!reason.remedy.unwrap().contains("usermod"));
    }

    #[test]
    fn denied_in_spite_of_permission_points_at_the_container() {
        for reason in [denied(0o660, true, false), denied(0o600, false, true)] {
            assert!(reason.remedy.unwrap().contains("--device /dev/kvm"));
        }
    }

    #[test]
    fn a_missing_device_is_explained_by_driver_and_processor() {
        let rows = [
            (true, processor(true, false), MissingDevice::Hidden),
            (true, processor(false, true), MissingDevice::Hidden),
            (
                false,
                processor(true, false),
                MissingDevice::NotLoaded("kvm_intel"),
            ),
            (
                false,
                processor(true, true),
                MissingDevice::NotLoaded("kvm_intel"),
            ),
            (false, processor(false, true), MissingDevice::NotNested),
            (false, processor(false, false), MissingDevice::SwitchedOff),
        ];
        for (loaded, processor, expected) in rows {
            assert_eq!(MissingDevice::why(loaded, processor), expected);
            let fault = Unavailable::from(KvmFault::NoDevice(expected));
            assert!(fault.remedy.is_some());
        }
    }

    #[test]
    fn every_fault_has_a_code_of_its_own() {
        let faults = [
            KvmFault::NoDevice(MissingDevice::Hidden).kind(),
            denied(0o660, false, false).code,
            KvmFault::CannotOpen(String::new()).kind(),
            KvmFault::Version(11).kind(),
            KvmFault::NoVirtualization.kind(),
            KvmFault::Lacks("").kind(),
            KvmFault::CannotCreate(libc::EBUSY).kind(),
        ];
        let distinct: std::collections::HashSet<_> = faults.iter().collect();
        assert_eq!(distinct.len(), faults.len());
    }

    #[test]
    fn a_busy_cpu_is_blamed_on_the_other_hypervisor() {
        let fault = Unavailable::from(KvmFault::CannotCreate(libc::EBUSY));
        assert!(fault.remedy.unwrap().contains("VirtualBox"));
    }

    #[test]
    fn names_are_found_and_numbers_stand_in_for_missing_ones() {
        assert_eq!(name_of("/etc/passwd", 0), "root");
        assert_eq!(name_of("/etc/group", 4_000_000_000), "4000000000");
    }
}
