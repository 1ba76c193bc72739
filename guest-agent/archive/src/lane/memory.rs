//! Memory that both sides of a lane have mapped.
//!
//! The other side may write to it at any time, so it is only ever copied: what is copied is what is
//! looked at, hashed, and written.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create,
};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use super::{Fetch, Fill, LANE_LEN, SLOT_LEN};

/// What the memory is called in `/proc`.
const NAME: &str = "sovereign-lane";

/// How much is copied at a time: little enough to be still in the CPU's cache when it is used.
const COPY_LEN: usize = 128 * 1024;

/// A lane's memory.
#[derive(Debug)]
pub struct Memory {
    memory: MmapRegion,
    /// The slot that is read, and how much it has.
    slot: usize,
    len: usize,
    /// A copy of a part of it, and which that is; or what goes into it.
    copy: Vec<u8>,
    part: Range<usize>,
}

impl Memory {
    /// Makes memory for a lane. It takes up room where it is used only.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Some systems want to be told that nobody will execute it (vm.memfd_noexec), others do not know
        // that (before Linux 6.3).
        let file = memfd_create(NAME, flags | MemfdFlags::NOEXEC_SEAL)
            .or_else(|_| memfd_create(NAME, flags))?;
        let file = File::from(file);
        ftruncate(&file, LANE_LEN)?;
        // Whoever else has it can make it neither longer nor shorter.
        let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        fcntl_add_seals(&file, seals)?;
        Self::map(file)
    }

    /// The memory that the other side has made, if it is what was agreed on.
    ///
    /// # Errors
    ///
    /// It is not, or the system's.
    pub fn of_other(memory: OwnedFd) -> io::Result<Self> {
        // Whoever could make it shorter could end this process by SIGBUS. Only memory knows seals.
        if !fcntl_get_seals(&memory)?.contains(SealFlags::SHRINK) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let file = File::from(memory);
        if file.metadata()?.len() != LANE_LEN {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Self::map(file)
    }

    fn map(file: File) -> io::Result<Self> {
        let length = usize::try_from(LANE_LEN).map_err(io::Error::other)?;
        let memory = MmapRegion::from_file(FileOffset::new(file, 0), length);
        Ok(Self {
            memory: memory.map_err(io::Error::other)?,
            slot: 0,
            len: 0,
            copy: vec![0; COPY_LEN],
            part: 0..0,
        })
    }

    /// The memory, to be sent to the other side.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        let backing = self.memory.file_offset();
        let file = backing.ok_or(io::ErrorKind::NotFound)?.file();
        Ok(file.try_clone()?.into())
    }

    fn place(&self, slot: usize, at: usize, len: usize) -> io::Result<VolatileSlice<'_>> {
        let place = self.memory.get_slice(slot * SLOT_LEN + at, len);
        place.map_err(io::Error::other)
    }
}

impl Fill for Memory {
    fn room(&mut self, _slot: usize, at: usize) -> io::Result<&mut [u8]> {
        let most = COPY_LEN.min(SLOT_LEN.saturating_sub(at));
        Ok(self.copy.get_mut(..most).unwrap_or_default())
    }

    fn put(&mut self, slot: usize, at: usize, len: usize) -> io::Result<()> {
        let data = self.copy.get(..len).ok_or(io::ErrorKind::InvalidInput)?;
        self.place(slot, at, len)?.copy_from(data);
        Ok(())
    }

    fn complete(&mut self, _slot: usize, _len: usize) -> io::Result<()> {
        Ok(())
    }
}

impl Fetch for Memory {
    fn open(&mut self, slot: usize, len: usize) -> io::Result<()> {
        (self.slot, self.len, self.part) = (slot, len, 0..0);
        Ok(())
    }

    fn show(&mut self, at: usize) -> io::Result<&[u8]> {
        if !self.part.contains(&at) {
            let len = COPY_LEN.min(self.len.saturating_sub(at));
            let mut copy = std::mem::take(&mut self.copy);
            let copied = self.place(self.slot, at, len).map(|place| {
                place.copy_to(copy.get_mut(..len).unwrap_or_default());
            });
            self.copy = copy;
            copied?;
            self.part = at..at + len;
        }
        let shown = self
            .copy
            .get(at - self.part.start..self.part.end - self.part.start);
        Ok(shown.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn memory_cannot_be_made_larger_by_whoever_gets_it() {
        let lane = Memory::new().unwrap();
        let theirs = File::from(lane.descriptor().unwrap());
        assert!(theirs.set_len(LANE_LEN + 1).is_err());
        assert!(theirs.write_at(b"beyond", LANE_LEN).is_err());
        assert!(theirs.set_len(0).is_err());
        assert_eq!(theirs.metadata().unwrap().len(), LANE_LEN);
    }

    #[test]
    fn what_is_filled_is_what_the_other_side_finds() {
        let mut lane = Memory::new().unwrap();
        let theirs = File::from(lane.descriptor().unwrap());
        lane.room(1, 2).unwrap()[..4].copy_from_slice(b"data");
        lane.put(1, 2, 4).unwrap();
        let mut found = [0; 6];
        let at = SLOT_LEN as u64;
        theirs.read_exact_at(&mut found, at).unwrap();
        assert_eq!(&found, b"\0\0data");
        theirs.write_all_at(b"more", at + 100).unwrap();
        lane.open(1, 200).unwrap();
        assert_eq!(&lane.show(100).unwrap()[..4], b"more");
        assert_eq!(lane.show(100).unwrap().len(), 100);
        assert!(lane.put(1, SLOT_LEN, 1).is_err());
    }

    /// What is shown again is what was looked at, whatever the sandbox has put there meanwhile.
    #[test]
    fn what_was_shown_does_not_change() {
        let mut lane = Memory::new().unwrap();
        let theirs = File::from(lane.descriptor().unwrap());
        theirs.write_all_at(b"before", 0).unwrap();
        lane.open(0, SLOT_LEN).unwrap();
        assert_eq!(&lane.show(0).unwrap()[..6], b"before");
        theirs.write_all_at(b"behind", 0).unwrap();
        assert_eq!(&lane.show(3).unwrap()[..3], b"ore");
        assert_eq!(lane.show(COPY_LEN).unwrap()[0], 0);
        assert_eq!(&lane.show(0).unwrap()[..6], b"behind");
    }

    const AGREED: SealFlags = SealFlags::GROW
        .union(SealFlags::SHRINK)
        .union(SealFlags::SEAL);

    fn memory(length: u64, seals: SealFlags) -> OwnedFd {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = memfd_create("lane", flags).unwrap();
        ftruncate(&memory, length).unwrap();
        fcntl_add_seals(&memory, seals).unwrap();
        memory
    }

    #[test]
    fn memory_that_could_become_shorter_is_refused() {
        assert!(Memory::of_other(memory(LANE_LEN, SealFlags::GROW | SealFlags::SEAL)).is_err());
        let file = tempfile::tempfile().unwrap();
        file.set_len(LANE_LEN).unwrap();
        assert!(Memory::of_other(file.into()).is_err());
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Memory::of_other(stream.into()).is_err());
    }

    #[test]
    fn memory_of_another_length_is_refused() {
        for length in [0, LANE_LEN - 1, LANE_LEN + 1] {
            assert!(
                Memory::of_other(memory(length, AGREED)).is_err(),
                "{length}"
            );
        }
    }

    #[test]
    fn memory_that_may_not_be_written_is_refused() {
        assert!(Memory::of_other(memory(LANE_LEN, AGREED | SealFlags::WRITE)).is_err());
    }
}
