//! What the device waits for: one epoll set of its own, nested in the event loop's.
//!
//! Everything in it is edge-triggered: a descriptor that is ready and cannot be served, as the guest
//! offers no buffers or credit, costs nothing until something changes, so there is nothing to switch
//! off and on again. A socket is watched for room only after a write fell short.
//!
//! The driver starts and resets the device on a vCPU's thread, which may change the set as well: it
//! makes no other system calls than `epoll_ctl`, `write` and `close` there.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::table::EntryId;

/// How many events are taken out of the set at a time.
pub(super) const BATCH: usize = 64;

/// Who an event is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// The driver has added buffers to the RX queue.
    RxKick,
    /// The driver has added packets to the TX queue.
    TxKick,
    /// The device has left work for its next turn.
    Wake,
    /// A deadline has passed.
    Timer,
    /// A client of the path interface wants in.
    Listener,
    /// An entry's socket.
    Entry(EntryId),
}

/// An index that no entry has: the token is one of the fixed ones, by generation.
const FIXED: u32 = u32::MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct Reactor {
    epoll: Epoll,
    wake: EventFd,
    timer: OwnedFd,
    /// When the timer goes off.
    armed: Option<Instant>,
    deadlines: BTreeSet<(Instant, EntryId)>,
    /// When the rings want to be served at the latest, whatever happens until then.
    rings_due: Option<Instant>,
}

impl Reactor {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let reactor = Self {
            epoll,
            wake,
            timer,
            armed: None,
            deadlines: BTreeSet::default(),
            rings_due: None,
        };
        reactor.watch_input(&reactor.wake, Token::Wake)?;
        reactor.watch_input(&reactor.timer, Token::Timer)?;
        Ok(reactor)
    }

    /// Watches a queue's kick, or for clients of the path interface.
    pub(super) fn watch_input(&self, source: &impl AsRawFd, token: Token) -> io::Result<()> {
        self.watch(source, token, EventSet::IN)
    }

    /// Watches something no longer that lives on. (What is closed needs no call.)
    pub(super) fn forget(&self, source: &impl AsRawFd) {
        // It fails only if it is not watched.
        let _ = self.epoll.ctl(
            ControlOperation::Delete,
            source.as_raw_fd(),
            EpollEvent::default(),
        );
    }

    /// Watches an entry's socket until it is closed.
    pub(super) fn watch_stream(&self, stream: &impl AsRawFd, id: EntryId) -> io::Result<()> {
        self.watch(
            stream,
            Token::Entry(id),
            EventSet::IN | EventSet::READ_HANG_UP,
        )
    }

    /// Watches an entry's socket for room, too, or not any more.
    pub(super) fn watch_room(
        &self,
        stream: &impl AsRawFd,
        id: EntryId,
        wanted: bool,
    ) -> io::Result<()> {
        let mut events = EventSet::IN | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        events.set(EventSet::OUT, wanted);
        let event = EpollEvent::new(events, Token::Entry(id).data());
        self.epoll
            .ctl(ControlOperation::Modify, stream.as_raw_fd(), event)
    }

    /// Has the event loop come back at once.
    pub(super) fn wake(&self) {
        // A full counter has woken the loop already.
        let _ = self.wake.write(1);
    }

    /// Takes out what has happened, up to a number. Returns whether there may be more.
    pub(super) fn poll(&self, events: &mut Vec<(Token, EventSet)>) -> bool {
        events.clear();
        let mut ready = [EpollEvent::default(); BATCH];
        // It fails only when a signal comes in between; what was ready stays ready.
        let Ok(count) = self.epoll.wait(0, &mut ready) else {
            return true;
        };
        events.extend(
            ready
                .iter()
                .take(count)
                .filter_map(|event| Some((Token::from_data(event.data())?, event.event_set()))),
        );
        count == BATCH
    }

    /// Sets an entry's deadline.
    pub(super) fn set_deadline(&mut self, id: EntryId, deadline: Instant) -> io::Result<()> {
        self.deadlines.insert((deadline, id));
        self.arm()
    }

    /// Takes an entry's deadline away. The timer is left as it is: it will find nothing.
    pub(super) fn clear_deadline(&mut self, id: EntryId, deadline: Instant) {
        self.deadlines.remove(&(deadline, id));
    }

    /// Takes out an entry whose deadline has passed.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<EntryId> {
        let first = *self.deadlines.first()?;
        if first.0 > now {
            return None;
        }
        self.deadlines.remove(&first);
        Some(first.1)
    }

    /// Has the rings served at this time, which replaces the one that was set before.
    pub(super) fn serve_rings_at(&mut self, due: Instant) -> io::Result<()> {
        self.rings_due = Some(due);
        self.arm()
    }

    /// Sets the timer for the first deadline, after it went off.
    pub(super) fn rearm(&mut self, now: Instant) -> io::Result<()> {
        self.armed = None;
        // They are served whenever something has happened.
        self.rings_due = self.rings_due.filter(|due| *due > now);
        self.arm()
    }

    fn arm(&mut self) -> io::Result<()> {
        let first = self.deadlines.first().map(|(deadline, _)| *deadline);
        let Some(first) = first.into_iter().chain(self.rings_due).min() else {
            return Ok(());
        };
        // A timer that goes off too early finds nothing and is set anew; deadlines that are met
        // cost no system call.
        if self.armed.is_some_and(|armed| armed <= first) {
            return Ok(());
        }
        let wait = first.saturating_duration_since(Instant::now());
        // Zero would switch it off.
        let wait = wait.max(Duration::from_nanos(1));
        let value = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let never = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let setting = Itimerspec {
            it_interval: never,
            it_value: value,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting)?;
        self.armed = Some(first);
        Ok(())
    }

    fn watch(&self, source: &impl AsRawFd, token: Token, events: EventSet) -> io::Result<()> {
        let event = EpollEvent::new(events | EventSet::EDGE_TRIGGERED, token.data());
        self.epoll
            .ctl(ControlOperation::Add, source.as_raw_fd(), event)
    }
}

impl AsRawFd for Reactor {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

impl Token {
    fn data(self) -> u64 {
        let (index, generation) = match self {
            Self::RxKick => (FIXED, 0),
            Self::TxKick => (FIXED, 1),
            Self::Wake => (FIXED, 2),
            Self::Timer => (FIXED, 3),
            Self::Listener => (FIXED, 4),
            Self::Entry(id) => (id.index, id.generation),
        };
        u64::from(generation) << 32 | u64::from(index)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the halves are what is wanted"
    )]
    fn from_data(data: u64) -> Option<Self> {
        let (index, generation) = (data as u32, (data >> 32) as u32);
        match (index, generation) {
            (FIXED, 0) => Some(Self::RxKick),
            (FIXED, 1) => Some(Self::TxKick),
            (FIXED, 2) => Some(Self::Wake),
            (FIXED, 3) => Some(Self::Timer),
            (FIXED, 4) => Some(Self::Listener),
            (FIXED, _) => None,
            _ => Some(Self::Entry(EntryId { index, generation })),
        }
    }
}
