//! What the kernel says and wants to hear (linux/fuse.h, protocol 7.31).

/// The length of `struct fuse_in_header`.
const HEADER: usize = 40;

/// linux/fuse.h, `enum fuse_opcode`, as far as it is served.
pub(super) mod opcode {
    pub(in crate::bare_fs) const LOOKUP: u32 = 1;
    pub(in crate::bare_fs) const FORGET: u32 = 2;
    pub(in crate::bare_fs) const GETATTR: u32 = 3;
    pub(in crate::bare_fs) const SETATTR: u32 = 4;
    pub(in crate::bare_fs) const UNLINK: u32 = 10;
    pub(in crate::bare_fs) const RENAME: u32 = 12;
    pub(in crate::bare_fs) const OPEN: u32 = 14;
    pub(in crate::bare_fs) const READ: u32 = 15;
    pub(in crate::bare_fs) const WRITE: u32 = 16;
    pub(in crate::bare_fs) const STATFS: u32 = 17;
    pub(in crate::bare_fs) const RELEASE: u32 = 18;
    pub(in crate::bare_fs) const FSYNC: u32 = 20;
    pub(in crate::bare_fs) const FLUSH: u32 = 25;
    pub(in crate::bare_fs) const INIT: u32 = 26;
    pub(in crate::bare_fs) const OPENDIR: u32 = 27;
    pub(in crate::bare_fs) const READDIR: u32 = 28;
    pub(in crate::bare_fs) const RELEASEDIR: u32 = 29;
    pub(in crate::bare_fs) const CREATE: u32 = 35;
    pub(in crate::bare_fs) const INTERRUPT: u32 = 36;
    pub(in crate::bare_fs) const BATCH_FORGET: u32 = 42;
    pub(in crate::bare_fs) const RENAME2: u32 = 45;
}

/// A request: `struct fuse_in_header`, and what follows it.
pub(super) struct Request<'a> {
    pub(super) opcode: u32,
    pub(super) node: u64,
    pub(super) owner: (u32, u32),
    pub(super) body: &'a [u8],
}

impl<'a> Request<'a> {
    /// A request, and the number that its answer has to bear.
    pub(super) fn read(bytes: &'a [u8]) -> Option<(u64, Self)> {
        let (head, body) = bytes.split_at_checked(HEADER)?;
        let head = Self {
            opcode: 0,
            node: 0,
            owner: (0, 0),
            body: head,
        };
        let request = Self {
            opcode: head.u32(4),
            node: head.u64(16),
            owner: (head.u32(24), head.u32(28)),
            body,
        };
        Some((head.u64(8), request))
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        let bytes = self.body.get(at..at + 4).unwrap_or(&[0; 4]);
        bytes.try_into().map_or(0, u32::from_ne_bytes)
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        let bytes = self.body.get(at..at + 8).unwrap_or(&[0; 8]);
        bytes.try_into().map_or(0, u64::from_ne_bytes)
    }

    /// The names from here on, each with a NUL behind it.
    pub(super) fn names(&self, at: usize) -> impl Iterator<Item = Vec<u8>> {
        let text = self.body.get(at..).unwrap_or_default();
        text.split(|byte| *byte == 0).map(<[u8]>::to_vec)
    }

    pub(super) fn name(&self, at: usize) -> Vec<u8> {
        self.names(at).next().unwrap_or_default()
    }
}

pub(super) fn put(to: &mut Vec<u8>, numbers: &[u32]) {
    to.extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
}

/// `struct fuse_init_out`: no flag, and the rest as it was before there were more.
pub(super) fn init() -> Vec<u8> {
    let mut answer = Vec::new();
    put(&mut answer, &[7, 31, 64 * 1024, 0, 0, 32 * 1024, 1]);
    answer.resize(64, 0);
    answer
}

/// `struct fuse_open_out`: what is read and written comes here at once (`FOPEN_DIRECT_IO`).
pub(super) fn opened() -> Vec<u8> {
    let mut answer = vec![0; 8];
    put(&mut answer, &[1, 0]);
    answer
}

/// `struct fuse_statfs_out`: a file system with room.
pub(super) fn statistics() -> Vec<u8> {
    let mut answer = Vec::new();
    for number in [1_u64 << 30, 1 << 30, 1 << 30, 1 << 20, 1 << 20] {
        answer.extend(number.to_ne_bytes());
    }
    put(&mut answer, &[4096, 255, 4096]);
    answer.resize(80, 0);
    answer
}

/// `struct fuse_out_header`, and what follows it.
pub(super) fn reply(unique: u64, error: i32, data: &[u8]) -> Vec<u8> {
    let mut reply = Vec::new();
    put(&mut reply, &[u32::try_from(16 + data.len()).unwrap_or(16)]);
    reply.extend(error.to_ne_bytes());
    reply.extend(unique.to_ne_bytes());
    reply.extend(data);
    reply
}
