//! From what is wanted to what the VMM is told: the plain-data description of one machine.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use agent_protocol::boot::{BootParameters, RootDisk};
use sandbox_image::Image;
use vmm::config::{DeviceDiscovery, DiskConfig, MachineConfig, VsockConfig};

use super::error::MicrovmError;
use crate::spec::SandboxSpec;

/// The guest's address on its own socket device; each machine has one of its own.
const GUEST_CID: u32 = 3;

/// How much of the guest's console is kept: enough for a panic with its call trace.
const CONSOLE_BYTES: u32 = 16 * 1024;

/// Describes the machine for a sandbox.
///
/// # Errors
///
/// If a file of the user's own cannot be read, or something cannot be said on a command line.
pub(super) fn describe(
    spec: &SandboxSpec,
    image: Image,
    trace: bool,
) -> Result<MachineConfig, MicrovmError> {
    let boot = BootParameters {
        root: Some(RootDisk {
            device: "/dev/vda".to_owned(),
            fstype: "erofs".to_owned(),
        }),
        overlay_mib: Some(spec.overlay_mib.unwrap_or(spec.memory_mib / 2)),
        hostname: Some(
            spec.hostname
                .clone()
                .unwrap_or_else(|| "sandbox".to_owned()),
        ),
        trace,
        ..BootParameters::default()
    };
    let image_kernel = image.kernel;
    let (kernel, discovery) = match &spec.image.kernel {
        Some(own) => (readable("guest kernel", own)?, discovery_of(own)?),
        None => (image_kernel, parse_discovery(&image.discovery)),
    };
    let rootfs = match &spec.image.rootfs {
        Some(own) => readable("root file system", own)?,
        None => image.rootfs,
    };
    Ok(MachineConfig {
        vcpus: spec.cpus,
        memory_mib: spec.memory_mib,
        kernel,
        initramfs: Some(image.initramfs),
        cmdline: format!("{} {}", image.cmdline, boot.encode()?),
        discovery,
        disks: vec![DiskConfig {
            path: rootfs,
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

/// The path of a regular file that can be read, made absolute.
fn readable(what: &'static str, path: &Path) -> Result<PathBuf, MicrovmError> {
    let failed = |source| MicrovmError::File {
        what,
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("not a regular file")));
    }
    std::path::absolute(path).map_err(failed)
}

fn parse_discovery(name: &str) -> DeviceDiscovery {
    if name == "command-line" {
        DeviceDiscovery::CommandLine
    } else {
        DeviceDiscovery::Acpi
    }
}

/// How a kernel of the user's own learns of its devices. Distribution kernels know ACPI; one that
/// was built without it says so by what is not in it.
fn discovery_of(kernel: &Path) -> Result<DeviceDiscovery, MicrovmError> {
    let failed = |source| MicrovmError::File {
        what: "guest kernel",
        path: kernel.to_owned(),
        source,
    };
    let mut signs = [Sign::new(b"virtio_mmio.device\0"), Sign::new(b"ACPI: RSDP")];
    let mut file = File::open(kernel).map_err(failed)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer).map_err(failed)?;
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        for sign in &mut signs {
            sign.look(bytes);
        }
    }
    let [command_line, acpi] = signs.map(|sign| sign.found);
    Ok(if command_line && !acpi {
        DeviceDiscovery::CommandLine
    } else {
        DeviceDiscovery::Acpi
    })
}

/// A text that is looked for in a file that comes in pieces.
struct Sign {
    text: &'static [u8],
    /// The end of the last piece, in which the text may have begun.
    tail: Vec<u8>,
    found: bool,
}

impl Sign {
    const fn new(text: &'static [u8]) -> Self {
        Self {
            text,
            tail: Vec::new(),
            found: false,
        }
    }

    fn look(&mut self, piece: &[u8]) {
        if self.found {
            return;
        }
        let overlap = self.text.len() - 1;
        self.tail.extend(piece.iter().take(overlap));
        self.found = contains(&self.tail, self.text) || contains(piece, self.text);
        let end = if piece.len() < overlap {
            self.tail.as_slice()
        } else {
            piece
        };
        self.tail = end
            .iter()
            .skip(end.len().saturating_sub(overlap))
            .copied()
            .collect();
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    let Some(first) = text.first() else {
        return true;
    };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        let (_, candidate) = rest.split_at(at);
        if candidate.starts_with(text) {
            return true;
        }
        rest = candidate.get(1..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
            cpus: 2,
            memory_mib: 256,
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
        let image_choice = ImageChoice {
            kernel: Some(PathBuf::from("/nowhere/vmlinux")),
            ..ImageChoice::default()
        };
        let spec = SandboxSpec {
            image: image_choice,
            ..SandboxSpec::default()
        };
        let error = describe(&spec, image(), false).unwrap_err();
        assert_eq!(error.to_string(), "guest kernel /nowhere/vmlinux");
    }

    #[test]
    fn a_folder_is_no_root_file_system() {
        let image_choice = ImageChoice {
            rootfs: Some(PathBuf::from("/tmp")),
            ..ImageChoice::default()
        };
        let spec = SandboxSpec {
            image: image_choice,
            ..SandboxSpec::default()
        };
        assert!(describe(&spec, image(), false).is_err());
    }

    #[test]
    fn a_kernel_without_acpi_is_told_on_its_command_line() {
        let kernel = |text: &[u8]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            discovery_of(file.path()).unwrap()
        };
        assert_eq!(
            kernel(b"..virtio_mmio.device\0.."),
            DeviceDiscovery::CommandLine
        );
        assert_eq!(
            kernel(b"virtio_mmio.device\0 ACPI: RSDP"),
            DeviceDiscovery::Acpi
        );
        assert_eq!(kernel(b"compressed"), DeviceDiscovery::Acpi);
    }

    proptest! {
        #[test]
        fn a_sign_is_found_wherever_the_pieces_end(
            before in "[ab]{0,40}", after in "[ab]{0,40}", size in 1_usize..20,
        ) {
            let whole = [before.as_bytes(), b"abba!", after.as_bytes()].concat();
            let mut sign = Sign::new(b"abba!");
            for piece in whole.chunks(size) {
                sign.look(piece);
            }
            prop_assert!(sign.found);
        }

        #[test]
        fn a_sign_that_is_not_there_is_not_found(text in "[ab]{0,80}", size in 1_usize..20) {
            let mut sign = Sign::new(b"abba!");
            for piece in text.as_bytes().chunks(size) {
                sign.look(piece);
            }
            prop_assert!(!sign.found);
        }
    }
}
