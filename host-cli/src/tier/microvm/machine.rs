//! From what is wanted to what the VMM is told: the plain-data description of one machine.

use agent_protocol::boot::{BootParameters, RootDisk};
use sandbox_image::Image;
use vmm::config::{DeviceDiscovery, DiskConfig, MachineConfig, VsockConfig};

use super::error::MicrovmError;
use crate::host::memory_mib;
use crate::spec::SandboxSpec;

/// The guest's address on its own socket device; each machine has one of its own.
const GUEST_CID: u32 = 3;

/// How much of the guest's console is kept: enough for a panic with its call trace.
const CONSOLE_BYTES: u32 = 16 * 1024;

/// Describes the machine for a sandbox.
///
/// # Errors
///
/// If a file of the user's own cannot be used, or something cannot be said on a command line.
pub(super) fn describe(
    spec: &SandboxSpec,
    image: Image,
    trace: bool,
) -> Result<MachineConfig, MicrovmError> {
    spec.check_as_machine(memory_mib())?;
    let boot = BootParameters {
        root: Some(RootDisk {
            device: "/dev/vda".to_owned(),
            fstype: "erofs".to_owned(),
        }),
        overlay_mib: Some(spec.overlay_mib()),
        hostname: Some(spec.hostname().to_owned()),
        trace,
        ..BootParameters::default()
    };
    let image = image.with_overrides(&spec.image.overrides)?;
    Ok(MachineConfig {
        vcpus: spec.cpus(),
        memory_mib: spec.memory_mib(),
        kernel: image.kernel,
        initramfs: Some(image.initramfs),
        cmdline: format!("{} {}", image.cmdline, boot.encode()?),
        discovery: discovery(&image.discovery),
        disks: vec![DiskConfig {
            path: image.rootfs,
            read_only: true,
        }],
        vsock: Some(VsockConfig {
            guest_cid: GUEST_CID,
            uds_path: None,
        }),
        entropy: true,
        console_bytes: CONSOLE_BYTES,
    })
}

fn discovery(name: &str) -> DeviceDiscovery {
    if name == "command-line" {
        DeviceDiscovery::CommandLine
    } else {
        DeviceDiscovery::Acpi
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use sandbox_image::Overrides;

    use super::*;
    use crate::spec::ImageChoice;

    fn image() -> Image {
        Image {
            name: "sandbox".to_owned(),
            id: "0".repeat(64),
            kernel: PathBuf::from("/store/kernel"),
            initramfs: PathBuf::from("/store/initramfs"),
            rootfs: PathBuf::from("/store/rootfs"),
            cmdline: "quiet".to_owned(),
            discovery: "command-line".to_owned(),
        }
    }

    #[test]
    fn an_image_becomes_a_machine() {
        let spec = SandboxSpec {
            cpus: Some(2),
            memory_mib: Some(256),
            ..SandboxSpec::default()
        };
        let config = describe(&spec, image(), false).unwrap();
        assert_eq!((config.vcpus, config.memory_mib), (2, 256));
        assert_eq!(config.kernel, Path::new("/store/kernel"));
        assert_eq!(
            config.initramfs.as_deref(),
            Some(Path::new("/store/initramfs"))
        );
        assert_eq!(config.disks.len(), 1);
        assert!(config.disks[0].read_only);
        assert_eq!(config.discovery, DeviceDiscovery::CommandLine);
        assert_eq!(
            config.cmdline,
            "quiet sovereign.root=/dev/vda sovereign.rootfstype=erofs \
             sovereign.overlay_mib=128 sovereign.hostname=sandbox"
        );
    }

    #[test]
    fn wishes_reach_the_command_line() {
        let spec = SandboxSpec {
            hostname: Some("box".to_owned()),
            overlay_mib: Some(64),
            ..SandboxSpec::default()
        };
        let line = describe(&spec, image(), true).unwrap().cmdline;
        for word in [
            "sovereign.hostname=box",
            "sovereign.overlay_mib=64",
            "sovereign.trace",
        ] {
            assert!(line.split(' ').any(|found| found == word), "{line}");
        }
    }

    #[test]
    fn a_kernel_that_is_not_there_is_named() {
        let overrides = Overrides {
            kernel: Some(PathBuf::from("/nowhere/vmlinux")),
            ..Overrides::default()
        };
        let image_choice = ImageChoice {
            overrides,
            ..ImageChoice::default()
        };
        let spec = SandboxSpec {
            image: image_choice,
            ..SandboxSpec::default()
        };
        let error = describe(&spec, image(), false).unwrap_err();
        assert!(error.to_string().contains("/nowhere/vmlinux"), "{error}");
        assert!(!error.blames_the_tier());
    }

    #[test]
    fn what_a_spec_may_ask_for_a_machine_can_be() {
        assert_eq!(crate::spec::MAX_CPUS, vmm::config::MAX_VCPUS);
        assert_eq!(crate::spec::MIN_MEMORY_MIB, vmm::config::MIN_MEMORY_MIB);
    }
}
