//! Tiny guests: a few bytes of 32-bit code in an ELF file with a PVH entry point.
//!
//! They run on every host whose `/dev/kvm` opens, also where ring 0 is interpreted and no ordinary
//! kernel boots.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use vmm::config::{DeviceDiscovery, MachineConfig};

/// Where the code lies and starts.
const CODE_ADDRESS: u32 = 0x10_0000;

/// A guest's kernel file and the machine around it.
pub(crate) struct Guest {
    _folder: TempDir,
    /// A machine of one vCPU and 32 MiB that runs the code.
    pub(crate) config: MachineConfig,
}

impl Guest {
    /// A guest that runs this code, in 32-bit protected mode without paging.
    pub(crate) fn new(code: &[&[u8]]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        fs::write(&kernel, elf(&code.concat())).unwrap();
        Self {
            config: config(kernel),
            _folder: folder,
        }
    }
}

/// A machine for this kernel.
pub(crate) fn config(kernel: PathBuf) -> MachineConfig {
    MachineConfig {
        vcpus: 1,
        memory_mib: 32,
        kernel,
        initramfs: None,
        cmdline: String::new(),
        discovery: DeviceDiscovery::Acpi,
        disks: Vec::new(),
        vsock: None,
        entropy: false,
        console_bytes: 4096,
    }
}

/// Whether this host can run a guest; says why not, and fails where KVM is required.
pub(crate) fn kvm_is_here() -> bool {
    match vmm::kvm::open() {
        Ok(_) => true,
        Err(error) => {
            let required = std::env::var_os("SOVEREIGN_REQUIRE_KVM").is_some_and(|v| v == "1");
            assert!(!required, "KVM is required: {error}");
            let test = std::thread::current().name().unwrap_or("test").to_owned();
            eprintln!("{test}: skipped: {error}");
            false
        }
    }
}

/// `mov al, VALUE; out 0x64, al`: the reset command.
pub(crate) const RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64];
/// `mov dx, 0x600; mov al, 0x34; out dx, al`: sleep type 5, enabled.
pub(crate) const POWER_OFF: &[u8] = &[0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee];
/// `ud2`, without a handler.
pub(crate) const TRIPLE_FAULT: &[u8] = &[0x0f, 0x0b];
/// `jmp .`
pub(crate) const SPIN: &[u8] = &[0xeb, 0xfe];
/// Goes back to real mode and jumps to the firmware, as kernels do to restart: copies a descriptor
/// table with a 16-bit code segment and the code that leaves protected mode, and enters it.
pub(crate) const REAL_MODE_RESTART: &[u8] = &[
    0x0f, 0x01, 0x15, 0x30, 0x00, 0x10, 0x00, // lgdt [0x10_0030]
    0x66, 0xb8, 0x10, 0x00, // mov ax, 0x10
    0x8e, 0xd8, // mov ds, ax
    0xbf, 0x00, 0x70, 0x00, 0x00, // mov edi, 0x7000
    0xbe, 0x50, 0x00, 0x10, 0x00, // mov esi, 0x10_0050
    0xb9, 0x20, 0x00, 0x00, 0x00, // mov ecx, 32
    0xf3, 0xa4, // rep movsb
    0xea, 0x00, 0x70, 0x00, 0x00, 0x08, 0x00, // jmp 0x08:0x7000
    0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
    // at 0x30: limit and base of the table
    0x17, 0x00, 0x38, 0x00, 0x10, 0x00, 0x00, 0x00, // at 0x38: null, 16-bit code, data
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0x00, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x93, 0xcf, 0x00,
    // at 0x50: mov eax, cr0; and al, 0xfe; mov cr0, eax; jmp 0xffff:0
    0x0f, 0x20, 0xc0, 0x24, 0xfe, 0x0f, 0x22, 0xc0, 0xea, 0x00, 0x00, 0xff, 0xff,
];
/// `hlt; jmp` back to it.
pub(crate) const HALT: &[u8] = &[0xf4, 0xeb, 0xfd];
/// `mov dx, 0x3f8`: what follows writes to the console.
pub(crate) const TO_CONSOLE: &[u8] = &[0x66, 0xba, 0xf8, 0x03];
/// `out dx, al`
pub(crate) const OUT_AL: &[u8] = &[0xee];
/// `mov al, 'x'; out dx, al; jmp` back to the second.
pub(crate) const FLOOD: &[u8] = &[0xb0, b'x', 0xee, 0xeb, 0xfd];
/// `shr eax, 8`
pub(crate) const NEXT_BYTE: &[u8] = &[0xc1, 0xe8, 0x08];

/// `mov al, BYTE; out dx, al`
pub(crate) fn print(byte: u8) -> [u8; 3] {
    [0xb0, byte, 0xee]
}

/// `mov eax, [ADDRESS]`
pub(crate) fn load(address: u32) -> [u8; 5] {
    let [a, b, c, d] = address.to_le_bytes();
    [0xa1, a, b, c, d]
}

/// `in al, PORT`
pub(crate) fn read_port(port: u8) -> [u8; 2] {
    [0xe4, port]
}

/// An ELF file with one segment, the code, and a note that names its start as PVH entry point.
pub(crate) fn elf(code: &[u8]) -> Vec<u8> {
    const NOTE_AT: u64 = 0x100;
    const CODE_AT: u64 = 0x1000;
    let mut file = vec![0; 0x1000];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[18] = 62; // EM_X86_64
    file[32] = 64; // program headers right behind this header
    file[54] = 56; // size of one
    file[56] = 2; // number of them
    let size = code.len() as u64;
    let load = [1, CODE_AT, 0, u64::from(CODE_ADDRESS), size, size, 0x1000];
    let note = [4, NOTE_AT, 0, 0, 20, 20, 4];
    for (header, at) in [(load, 64), (note, 64 + 56)] {
        for (field, value) in header.into_iter().enumerate() {
            file[at + field * 8..][..8].copy_from_slice(&value.to_le_bytes());
        }
    }
    let mut words = vec![4_u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), CODE_ADDRESS].into_iter();
    for at in (0x100..0x114).step_by(4) {
        file[at..at + 4].copy_from_slice(&words.next().unwrap_or_default().to_le_bytes());
    }
    file.extend_from_slice(code);
    file
}
