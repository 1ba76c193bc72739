//! Where a command's output goes, without ever waiting for it.
//!
//! The descriptors are the caller's, and often shared with other programs, so `O_NONBLOCK` is not
//! ours to set. What keeps a write from blocking depends on what the descriptor is:
//!
//! | descriptor | way |
//! |---|---|
//! | file, device | plain `write`: it does not wait for a reader |
//! | socket | `MSG_DONTWAIT` |
//! | pipe | `pwritev2` with `RWF_NOWAIT` (Linux 6.4), else as a terminal |
//! | terminal | an open file description of our own, through `/proc/self/fd`, with `O_NONBLOCK` |
//! | none of this works | `poll`, then at most `PIPE_BUF` bytes |

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_protocol::credit::INITIAL_CREDIT;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::SendFlags;

/// POSIX's smallest PIPE_BUF is 512; Linux has 4096 and accepts as much when `poll` says so.
const PIPE_BUF: usize = 4096;

/// Where one of a command's outputs goes.
#[derive(Debug, Default)]
pub enum OutputTarget<'a> {
    /// Nowhere: it is taken and dropped.
    #[default]
    Discard,
    /// This descriptor: a terminal, pipe, socket or file. Its flags are left as they are.
    Fd(BorrowedFd<'a>),
    /// Whatever takes it at once and whole.
    Taker(&'a mut dyn Taker),
    /// Memory, up to so many bytes; the rest is dropped, and told.
    Collect {
        /// Where it is appended.
        into: &'a mut Vec<u8>,
        /// The most it may become.
        limit: usize,
    },
}

/// Takes output without ever waiting for somebody.
pub trait Taker: fmt::Debug + Send {
    /// Takes all of it.
    ///
    /// # Errors
    ///
    /// If it can take no more; the command is then told that nobody reads.
    fn take(&mut self, data: &[u8]) -> io::Result<()>;
}

/// One output on its way.
#[derive(Debug)]
pub(crate) struct Sink<'a> {
    place: Place<'a>,
    /// What the descriptor has not taken yet: at most a window of credit.
    waiting: Vec<u8>,
    taken: usize,
    dropped: bool,
}

#[derive(Debug)]
enum Place<'a> {
    Discard,
    Taker(&'a mut dyn Taker),
    Collect { into: &'a mut Vec<u8>, limit: usize },
    Fd { fd: BorrowedFd<'a>, way: Way },
}

#[derive(Debug)]
enum Way {
    Plain,
    Socket,
    NoWait,
    Own(OwnedFd),
    PollFirst,
}

/// What happened to data given to a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// So many bytes have gone where they belong (of this or of earlier data).
    Consumed(usize),
    /// The reader is gone.
    Closed,
}

impl<'a> Sink<'a> {
    pub(crate) fn new(target: OutputTarget<'a>) -> Self {
        let place = match target {
            OutputTarget::Discard => Place::Discard,
            OutputTarget::Taker(taker) => Place::Taker(taker),
            OutputTarget::Collect { into, limit } => Place::Collect { into, limit },
            OutputTarget::Fd(fd) => Place::Fd {
                fd,
                way: Way::choose(fd),
            },
        };
        Self {
            place,
            waiting: Vec::new(),
            taken: 0,
            dropped: false,
        }
    }

    /// Takes all of `data`: what cannot be written now is kept.
    pub(crate) fn push(&mut self, data: &[u8]) -> io::Result<Progress> {
        let is_waiting = self.is_waiting();
        match &mut self.place {
            Place::Discard => Ok(Progress::Consumed(data.len())),
            Place::Taker(taker) => Ok(match taker.take(data) {
                Ok(()) => Progress::Consumed(data.len()),
                Err(_) => Progress::Closed,
            }),
            Place::Collect { into, limit } => {
                let room = limit.saturating_sub(into.len()).min(data.len());
                let (kept, rest) = data.split_at(room);
                into.extend_from_slice(kept);
                self.dropped |= !rest.is_empty();
                Ok(Progress::Consumed(data.len()))
            }
            Place::Fd { .. } if is_waiting => {
                self.waiting.extend_from_slice(data);
                self.flush()
            }
            Place::Fd { fd, way } => {
                let progress = write_all_now(*fd, way, data)?;
                if let Progress::Consumed(count) = progress {
                    self.waiting
                        .extend_from_slice(data.get(count..).unwrap_or_default());
                }
                Ok(progress)
            }
        }
    }

    /// Writes what is kept, as far as it goes.
    pub(crate) fn flush(&mut self) -> io::Result<Progress> {
        let Place::Fd { fd, way } = &mut self.place else {
            return Ok(Progress::Consumed(0));
        };
        let data = self.waiting.get(self.taken..).unwrap_or_default();
        let progress = write_all_now(*fd, way, data)?;
        if let Progress::Consumed(count) = progress {
            self.taken += count;
            if self.taken >= self.waiting.len() {
                self.waiting.clear();
                self.taken = 0;
            } else if self.taken > INITIAL_CREDIT as usize {
                self.waiting.drain(..self.taken);
                self.taken = 0;
            }
        }
        Ok(progress)
    }

    /// Drops this output from now on.
    pub(crate) fn close(&mut self) {
        self.place = Place::Discard;
        self.waiting = Vec::new();
        self.taken = 0;
    }

    /// Drops what is kept for the descriptor. Returns how much that is.
    pub(crate) fn forget(&mut self) -> usize {
        let count = self.waiting.len().saturating_sub(self.taken);
        self.waiting.clear();
        self.taken = 0;
        count
    }

    /// Whether data is kept for the descriptor.
    pub(crate) fn is_waiting(&self) -> bool {
        self.taken < self.waiting.len()
    }

    /// Whether some was dropped for the limit.
    pub(crate) fn has_dropped(&self) -> bool {
        self.dropped
    }

    /// The descriptor to poll before [`flush`](Self::flush); `None` if nothing waits.
    pub(crate) fn waiting_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.place {
            Place::Fd { .. } if !self.is_waiting() => None,
            Place::Fd {
                way: Way::Own(own), ..
            } => Some(own.as_fd()),
            Place::Fd { fd, .. } => Some(*fd),
            Place::Discard | Place::Taker(_) | Place::Collect { .. } => None,
        }
    }
}

impl Way {
    fn choose(fd: BorrowedFd<'_>) -> Self {
        let Ok(stat) = rustix::fs::fstat(fd) else {
            return Self::Plain;
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Socket => Self::Socket,
            FileType::Fifo => Self::NoWait,
            FileType::CharacterDevice if rustix::termios::isatty(fd) => Self::own(fd),
            _ => Self::Plain,
        }
    }

    /// A description of the same file that is ours alone.
    fn own(fd: BorrowedFd<'_>) -> Self {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map_or(Self::PollFirst, Self::Own)
    }
}

/// Writes until all is written or the descriptor takes no more.
fn write_all_now(fd: BorrowedFd<'_>, way: &mut Way, data: &[u8]) -> io::Result<Progress> {
    let mut written = 0;
    while let Some(rest) = data.get(written..).filter(|rest| !rest.is_empty()) {
        match write_once(fd, way, rest) {
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            // A terminal that hung up says EIO.
            Err(Errno::IO) if matches!(way, Way::Own(_)) => return Ok(Progress::Closed),
            Err(Errno::PIPE | Errno::CONNRESET) => return Ok(Progress::Closed),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) if matches!(way, Way::NoWait) => {
                *way = Way::own(fd);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Progress::Consumed(written))
}

fn write_once(fd: BorrowedFd<'_>, way: &Way, data: &[u8]) -> rustix::io::Result<usize> {
    match way {
        Way::Plain => rustix::io::write(fd, data),
        Way::Socket => rustix::net::send(fd, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
        // An offset of -1 is the current one.
        Way::NoWait => {
            rustix::io::pwritev2(fd, &[IoSlice::new(data)], u64::MAX, ReadWriteFlags::NOWAIT)
        }
        Way::Own(own) => rustix::io::write(own, data),
        Way::PollFirst => {
            let mut ready = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
            if poll(&mut ready, Some(&Timespec::default()))? == 0 {
                return Err(Errno::AGAIN);
            }
            rustix::io::write(fd, data.get(..PIPE_BUF).unwrap_or(data))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    /// Pushes more than the other end holds, then reads and flushes until all has arrived.
    fn stall_and_drain(mut sink: Sink<'_>, mut reader: impl Read) {
        let data: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        let mut consumed = 0;
        let count = |progress| match progress {
            Progress::Consumed(count) => count,
            Progress::Closed => panic!("closed"),
        };
        for chunk in data.chunks(60_000) {
            consumed += count(sink.push(chunk).unwrap());
        }
        assert!(
            sink.is_waiting() && consumed < data.len(),
            "{consumed} bytes went at once"
        );
        let mut received = Vec::new();
        while received.len() < data.len() {
            let mut space = [0; 10_000];
            let read = reader.read(&mut space).unwrap();
            received.extend_from_slice(&space[..read]);
            consumed += count(sink.flush().unwrap());
        }
        assert!(received == data);
        assert_eq!((consumed, sink.is_waiting()), (data.len(), false));
    }

    #[test]
    fn stalled_pipe_blocks_nothing() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        stall_and_drain(Sink::new(OutputTarget::Fd(write.as_fd())), File::from(read));
    }

    #[test]
    fn stalled_pipe_blocks_nothing_by_any_way() {
        for own in [true, false] {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            let mut sink = Sink::new(OutputTarget::Fd(write.as_fd()));
            let way = if own {
                Way::own(write.as_fd())
            } else {
                Way::PollFirst
            };
            assert_eq!(own, matches!(way, Way::Own(_)));
            sink.place = Place::Fd {
                fd: write.as_fd(),
                way,
            };
            stall_and_drain(sink, File::from(read));
        }
    }

    #[test]
    fn stalled_socket_blocks_nothing() {
        let (reader, writer) = UnixStream::pair().unwrap();
        stall_and_drain(Sink::new(OutputTarget::Fd(writer.as_fd())), reader);
    }

    #[test]
    fn flags_of_the_callers_descriptor_stay() {
        let (_read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut sink = Sink::new(OutputTarget::Fd(write.as_fd()));
        sink.push(&[0; 100_000]).unwrap();
        assert!(
            !rustix::fs::fcntl_getfl(&write)
                .unwrap()
                .contains(OFlags::NONBLOCK)
        );
    }

    #[test]
    fn reader_that_is_gone_is_told() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut sink = Sink::new(OutputTarget::Fd(write.as_fd()));
        drop(read);
        assert_eq!(sink.push(b"x").unwrap(), Progress::Closed);
    }

    #[test]
    fn memory_keeps_to_its_limit() {
        let mut into = Vec::new();
        let mut sink = Sink::new(OutputTarget::Collect {
            into: &mut into,
            limit: 4,
        });
        assert_eq!(sink.push(b"abc").unwrap(), Progress::Consumed(3));
        assert!(!sink.has_dropped());
        assert_eq!(sink.push(b"def").unwrap(), Progress::Consumed(3));
        assert!(sink.has_dropped());
        assert_eq!(into, b"abcd");
    }
}
