//! From what is wanted to what the VMM is told: the plain-data description of one machine.

use agent_protocol::boot::{BootParameters, RootDisk};
use sandbox_image::Image;
use vmm::config::{DeviceDiscovery, DiskConfig, MachineConfig, VsockConfig};

use super::disk;
use super::error::MicrovmError;
use crate::host::memory_mib;
use crate::launch::Launch;

/// The guest's address on its own socket device; each machine has one of its own.
const GUEST_CID: u32 = 3;

/// What Linux calls the window of the lane disk: the machine's second virtio-mmio device, numbered from
/// zero in the order in which they are named.
const LANES_WINDOW: &str = "virtio-mmio.1";

/// How much of the guest's console is kept: enough for a panic with its call trace.
const CONSOLE_BYTES: u32 = 16 * 1024;

/// Describes the machine for a sandbox.
///
/// # Errors
///
/// If a file of the user's own cannot be used, or something cannot be said on a command line.
pub(super) fn describe(launch: &Launch<'_>, image: Image) -> Result<MachineConfig, MicrovmError> {
    let Launch {
        spec,
        trace,
        moves_files: lanes,
        ..
    } = *launch;
    spec.check_as_machine(memory_mib())?;
    let disk = launch
        .keep()
        .map(|folder| disk::ready(folder, spec.disk_mib()));
    let disk = disk.transpose()?;
    let boot = BootParameters {
        upper: disk.as_ref().map(|_| "/dev/vdb".to_owned()),
        root: Some(RootDisk {
            device: "/dev/vda".to_owned(),
            fstype: "erofs".to_owned(),
        }),
        overlay_mib: Some(spec.overlay_mib()),
        hostname: Some(spec.hostname().to_owned()),
        lanes: lanes.then(|| LANES_WINDOW.to_owned()),
        trace,
        ..BootParameters::default()
    };
    let image = image.with_overrides(&spec.image.overrides)?;
    Ok(MachineConfig {
        vcpus: spec.cpus(),
        memory_mib: spec.memory_mib(),
        kernel: image.kernel,
        initramfs: Some(image.initramfs),
        cmdline: boot.behind(&image.cmdline)?,
        discovery: discovery(&image.discovery),
        disks: [(image.rootfs, true)]
            .into_iter()
            .chain(disk.map(|path| (path, false)))
            .map(|(path, read_only)| DiskConfig { path, read_only })
            .collect(),
        vsock: Some(VsockConfig {
            guest_cid: GUEST_CID,
            lanes,
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
    use vmm::devices::virtio::block::lanes::{self, LaneNumber};

    use super::*;
    use crate::spec::{ImageChoice, SandboxSpec};

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
        let config = describe(&Launch::new(&spec), image()).unwrap();
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
            "quiet -- sovereign.root=/dev/vda sovereign.rootfstype=erofs \
             sovereign.overlay_mib=128 sovereign.hostname=sandbox \
             sovereign.lanes=virtio-mmio.1"
        );
    }

    #[test]
    fn wishes_reach_the_command_line() {
        let spec = SandboxSpec {
            hostname: Some("box".to_owned()),
            overlay_mib: Some(64),
            ..SandboxSpec::default()
        };
        let traced = Launch {
            trace: true,
            ..Launch::new(&spec)
        };
        let line = describe(&traced, image()).unwrap().cmdline;
        for word in [
            "sovereign.hostname=box",
            "sovereign.overlay_mib=64",
            "sovereign.trace",
            "sovereign.lanes=virtio-mmio.1",
        ] {
            assert!(line.split(' ').any(|found| found == word), "{line}");
        }
    }

    #[test]
    fn what_is_kept_is_on_a_disk_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let spec = SandboxSpec {
            disk_mib: Some(64),
            ..SandboxSpec::default()
        };
        let launch = Launch {
            keep: Some(folder.path()),
            ..Launch::new(&spec)
        };
        let config = describe(&launch, image()).unwrap();
        let [root, disk] = config.disks.as_slice() else {
            panic!("{:?}", config.disks);
        };
        assert!(root.read_only && !disk.read_only);
        assert_eq!(disk.path.metadata().unwrap().len(), 64 << 20);
        assert!(
            config.cmdline.contains(" sovereign.upper=/dev/vdb "),
            "{}",
            config.cmdline
        );
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
        let error = describe(&Launch::new(&spec), image()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/vmlinux"), "{error}");
        assert!(!error.blames_the_tier());
    }

    #[test]
    fn what_a_spec_may_ask_for_a_machine_can_be() {
        assert_eq!(crate::spec::MAX_CPUS, vmm::config::MAX_VCPUS);
        assert_eq!(crate::spec::MIN_MEMORY_MIB, vmm::config::MIN_MEMORY_MIB);
    }

    #[test]
    fn lanes_lie_where_the_agent_looks_for_them() {
        assert_eq!(agent_client::LANE_LEN, lanes::LANE_LEN);
        for port in [0, 1024, u32::MAX] {
            let of_host = LaneNumber::of_host_port(port).get();
            assert_eq!(agent_client::number_of_host_port(port), of_host);
            let of_guest = LaneNumber::of_guest_port(port).get();
            assert_eq!(agent_client::number_of_guest_port(port), of_guest);
        }
    }
}
