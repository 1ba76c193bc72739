//! ELF kernels (`vmlinux`), entered by PVH.
//!
//! Structures are those of the System V ABI, "Object Files"; the entry point is in a note as Xen's
//! `include/public/elfnote.h` defines it.

use linux_loader::elf::{EI_CLASS, EI_DATA, ELFCLASS64, ELFDATA2LSB, EM_X86_64, PT_LOAD, PT_NOTE};
use vm_memory::GuestAddress;

use super::layout;
use super::loader::{LoadError, Source, too_little_memory};
use crate::memory::{self, GuestRam};

/// The note that names the 32-bit entry point, `XEN_ELFNOTE_PHYS32_ENTRY`, of owner "Xen".
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const XEN_OWNER: &[u8] = b"Xen\0";

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
/// Linux has five program headers.
const MAX_PROGRAM_HEADERS: u16 = 64;
/// Linux has less than 1 KiB of notes.
const MAX_NOTES: u64 = 64 * 1024;

/// A kernel in guest memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// The PVH entry point.
    pub(super) entry: GuestAddress,
    /// First address behind the kernel, its zero-initialised memory included.
    pub(super) end: u64,
}

/// A part of the file that is to be in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

/// Loads the kernel where it says that it belongs.
pub(super) fn load(ram: &GuestRam, low_end: u64, kernel: &Source<'_>) -> Result<Image, LoadError> {
    let plan = parse(kernel)?;
    let image = plan.check(low_end, kernel)?;
    for segment in &plan.segments {
        let at = GuestAddress(segment.address);
        memory::place_file(ram, at, kernel.file, segment.offset, segment.file_size)?;
    }
    Ok(image)
}

/// What the headers say.
#[derive(Debug, Default)]
struct Plan {
    segments: Vec<Segment>,
    entry: Option<u64>,
}

impl Plan {
    /// Checks that everything lies in file and memory.
    fn check(&self, low_end: u64, kernel: &Source<'_>) -> Result<Image, LoadError> {
        let mut end = layout::HIGH_MEMORY.0;
        for segment in &self.segments {
            let file_end = segment.offset.checked_add(segment.file_size);
            kernel
                .require(file_end.ok_or(LoadError::Malformed("a segment's offset overflows"))?)?;
            if segment.file_size > segment.memory_size {
                return Err(LoadError::Malformed(
                    "a segment is larger in the file than in memory",
                ));
            }
            if segment.address < layout::HIGH_MEMORY.0 {
                return Err(LoadError::Malformed("a segment lies below 1 MiB"));
            }
            let memory_end = segment.address.checked_add(segment.memory_size);
            end = end.max(memory_end.ok_or(LoadError::Malformed("a segment's address overflows"))?);
        }
        if self.segments.is_empty() {
            return Err(LoadError::Malformed("it has nothing to load"));
        }
        if end > low_end {
            return Err(too_little_memory(end, low_end));
        }
        let entry = self.entry.ok_or(LoadError::NoPvhNote)?;
        if !self.segments.iter().any(|segment| segment.holds(entry)) {
            return Err(LoadError::Malformed(
                "its PVH entry point is not in a segment",
            ));
        }
        Ok(Image {
            entry: GuestAddress(entry),
            end,
        })
    }
}

impl Segment {
    fn holds(&self, address: u64) -> bool {
        address
            .checked_sub(self.address)
            .is_some_and(|offset| offset < self.file_size)
    }
}

fn parse(kernel: &Source<'_>) -> Result<Plan, LoadError> {
    let header = Bytes(&kernel.read::<HEADER_SIZE>(0)?).fields()?;
    let mut table = vec![0; usize::from(header.count) * PROGRAM_HEADER_SIZE];
    kernel.read_into(&mut table, header.offset)?;
    let mut plan = Plan::default();
    for entry in table.chunks_exact(PROGRAM_HEADER_SIZE).map(Bytes) {
        let segment = Segment {
            offset: entry.u64(8),
            address: entry.u64(24),
            file_size: entry.u64(32),
            memory_size: entry.u64(40),
        };
        match entry.u32(0) {
            PT_LOAD if segment.memory_size > 0 => plan.segments.push(segment),
            PT_NOTE if plan.entry.is_none() => plan.entry = entry_note(kernel, &segment)?,
            _ => {}
        }
    }
    Ok(plan)
}

/// Where the program headers are.
struct ProgramHeaders {
    offset: u64,
    count: u16,
}

/// Finds the entry point among the notes.
fn entry_note(kernel: &Source<'_>, notes: &Segment) -> Result<Option<u64>, LoadError> {
    if notes.file_size > MAX_NOTES {
        return Err(LoadError::Malformed("it has too many notes"));
    }
    let mut bytes = vec![0; usize::try_from(notes.file_size).unwrap_or_default()];
    kernel.read_into(&mut bytes, notes.offset)?;
    Ok(Notes { rest: &bytes }
        .find(|note| note.kind == XEN_ELFNOTE_PHYS32_ENTRY && note.owner == XEN_OWNER)
        .and_then(|note| match note.content.len() {
            4 => Some(u64::from(Bytes(note.content).u32(0))),
            8 => Some(Bytes(note.content).u64(0)),
            _ => None,
        }))
}

struct Note<'a> {
    kind: u32,
    owner: &'a [u8],
    content: &'a [u8],
}

/// Walks notes: three words (owner's length, content's length, kind), owner, content; padded to words.
struct Notes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Notes<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        let (head, rest) = self.rest.split_at_checked(12)?;
        let (owner, rest) = take_padded(rest, Bytes(head).u32(0))?;
        let (content, rest) = take_padded(rest, Bytes(head).u32(4))?;
        self.rest = rest;
        Some(Note {
            kind: Bytes(head).u32(8),
            owner,
            content,
        })
    }
}

fn take_padded(bytes: &[u8], length: u32) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(length).ok()?;
    let taken = bytes.get(..length)?;
    let padded = length.checked_next_multiple_of(4)?.min(bytes.len());
    Some((taken, bytes.get(padded..)?))
}

/// Little-endian fields of a structure; what is beyond its end reads as zero.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn fields(&self) -> Result<ProgramHeaders, LoadError> {
        if self.0.get(EI_CLASS) != Some(&ELFCLASS64)
            || self.0.get(EI_DATA) != Some(&ELFDATA2LSB)
            || self.u16(18) != EM_X86_64
        {
            return Err(LoadError::WrongMachine);
        }
        let headers = ProgramHeaders {
            offset: self.u64(32),
            count: self.u16(56),
        };
        if usize::from(self.u16(54)) != PROGRAM_HEADER_SIZE {
            return Err(LoadError::Malformed(
                "its program headers have the wrong size",
            ));
        }
        if headers.count > MAX_PROGRAM_HEADERS {
            return Err(LoadError::Malformed("it has too many program headers"));
        }
        Ok(headers)
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .unwrap_or([0; N])
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use proptest::prelude::*;
    use vm_memory::Bytes as _;

    use super::*;

    const MIB: u64 = 1 << 20;
    const NOTE_AT: usize = 0x200;
    const CODE_AT: usize = 0x1000;

    /// A kernel of one segment of two pages at 16 MiB, with a PVH note.
    fn kernel() -> Vec<u8> {
        let mut file = vec![0; CODE_AT + 0x2000];
        file[..4].copy_from_slice(b"\x7fELF");
        (file[EI_CLASS], file[EI_DATA]) = (ELFCLASS64, ELFDATA2LSB);
        file[18..20].copy_from_slice(&EM_X86_64.to_le_bytes());
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..58].copy_from_slice(&[56, 0, 2, 0]);
        put_header(
            &mut file,
            64,
            PT_LOAD,
            [CODE_AT as u64, 16 * MIB, 0x2000, 0x5000],
        );
        put_header(&mut file, 64 + 56, PT_NOTE, [NOTE_AT as u64, 0, 20, 20]);
        file[NOTE_AT..NOTE_AT + 12].copy_from_slice(&[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
        file[NOTE_AT + 12..NOTE_AT + 16].copy_from_slice(XEN_OWNER);
        file[NOTE_AT + 16..NOTE_AT + 20].copy_from_slice(&0x100_0040_u32.to_le_bytes());
        file[CODE_AT..].fill(0x90);
        file
    }

    fn put_header(file: &mut [u8], at: usize, kind: u32, fields: [u64; 4]) {
        file[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        for (offset, value) in [8, 24, 32, 40].into_iter().zip(fields) {
            file[at + offset..at + offset + 8].copy_from_slice(&value.to_le_bytes());
        }
    }

    fn load_bytes(bytes: &[u8], memory: u64) -> Result<Image, LoadError> {
        let ram = memory::allocate(&[(GuestAddress(0), memory)]).unwrap();
        let file = file_of(bytes);
        load(&ram, memory, &Source::of(&file).unwrap())
    }

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn kernel_lies_where_it_belongs_with_zeroes_behind_it() {
        let ram = memory::allocate(&[(GuestAddress(0), 32 * MIB)]).unwrap();
        let file = file_of(&kernel());

        let image = load(&ram, 32 * MIB, &Source::of(&file).unwrap()).unwrap();

        assert_eq!(
            image,
            Image {
                entry: GuestAddress(0x100_0040),
                end: 16 * MIB + 0x5000
            }
        );
        let mut code = [0; 0x2001];
        ram.read_slice(&mut code, GuestAddress(16 * MIB)).unwrap();
        assert_eq!(code[..0x2000], [0x90; 0x2000]);
        assert_eq!(code[0x2000], 0);
    }

    #[test]
    fn kernel_without_pvh_note_is_refused() {
        let mut file = kernel();
        file[NOTE_AT + 8] = 17;
        assert!(matches!(
            load_bytes(&file, 32 * MIB),
            Err(LoadError::NoPvhNote)
        ));
    }

    #[test]
    fn truncated_kernel_is_refused_with_both_sizes() {
        let file = kernel();
        let found = file.len() as u64 - 1;
        let error = load_bytes(&file[..file.len() - 1], 32 * MIB).unwrap_err();
        assert!(
            matches!(error, LoadError::Truncated { found: f, needed } if f == found && needed == found + 1)
        );
    }

    #[test]
    fn kernel_larger_than_memory_is_refused() {
        assert!(matches!(
            load_bytes(&kernel(), 16 * MIB),
            Err(LoadError::TooLittleMemory {
                needed_mib: 17,
                found_mib: 16
            })
        ));
    }

    #[test]
    fn kernel_for_another_processor_is_refused() {
        let mut file = kernel();
        file[18] = 183;
        assert!(matches!(
            load_bytes(&file, 32 * MIB),
            Err(LoadError::WrongMachine)
        ));
    }

    #[test]
    fn entry_outside_the_kernel_is_refused() {
        let mut file = kernel();
        file[NOTE_AT + 19] = 0x7f;
        assert!(matches!(
            load_bytes(&file, 32 * MIB),
            Err(LoadError::Malformed(_))
        ));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn damaged_headers_never_panic(
            damage in prop::collection::vec((0..0x220_usize, any::<u8>()), 1..8)
        ) {
            let mut file = kernel();
            for (at, value) in damage {
                file[at] = value;
            }
            let source = file_of(&file);
            let source = Source::of(&source).unwrap();
            let _ = parse(&source).and_then(|plan| plan.check(32 * MIB, &source));
        }
    }
}
