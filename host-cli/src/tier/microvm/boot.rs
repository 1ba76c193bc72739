//! Waiting for a guest: the VMM's events, the agent's first bytes, a wish to give up and the
//! deadline, all at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use vmm::control::{Command, Event, TracePoint};

use super::console::last_lines;
use super::control::{Control, ControlError};
use super::error::{MicrovmError, why_it_stopped};
use crate::deadline::{is_readable, remaining};
use crate::tier::process::ChildProcess;

/// How long a VMM may take to tell why it ends, after the first sign that it does.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A VMM process and the conversation with it.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) control: Control,
    pub(super) process: ChildProcess,
}

impl Owned {
    /// Waits until the agent has said its first word on `stream`. Returns the VMM's own trace.
    ///
    /// # Errors
    ///
    /// If the machine ends before, or `deadline` passes, or `cancel` becomes readable.
    pub(super) fn wait_until_ready(
        &mut self,
        stream: &UnixStream,
        deadline: Instant,
        cancel: Option<BorrowedFd>,
    ) -> Result<Vec<TracePoint>, MicrovmError> {
        let mut trace = None;
        loop {
            let ready = Ready::wait(&self.control, stream, cancel, deadline)?;
            if ready.control {
                match self.next_event()? {
                    Some(Event::Started { trace: points }) => trace = Some(points),
                    Some(Event::Paused | Event::Resumed) | None => {}
                    Some(event) => return Err(ended_by(event)),
                }
            } else if ready.cancel {
                return Err(MicrovmError::Cancelled);
            } else if ready.stream {
                // The VMM says that it has started before it lets the guest run.
                return trace.ok_or_else(|| self.why_gone());
            } else if Instant::now() >= deadline {
                return Err(self.silent(trace.is_some()));
            }
        }
    }

    /// Why the machine is gone, after its stream has ended. Waits for the VMM's last words, but not
    /// for long.
    pub(super) fn why_gone(&mut self) -> MicrovmError {
        self.last_event().map_or_else(|error| error, ended_by)
    }

    /// The deadline has passed. The console may tell what the guest was at.
    fn silent(&mut self, started: bool) -> MicrovmError {
        if !started {
            return MicrovmError::VmmSilent;
        }
        let asked = self.control.send(&Command::Stop, None);
        let console = match asked
            .map_err(MicrovmError::from)
            .and_then(|()| self.last_event())
        {
            Ok(Event::Stopped { console, .. }) => last_lines(&console),
            Ok(_) | Err(_) => Vec::new(),
        };
        MicrovmError::GuestSilent { console }
    }

    /// Waits for the VMM's last event.
    fn last_event(&mut self) -> Result<Event, MicrovmError> {
        let deadline = Instant::now() + LAST_WORDS;
        loop {
            match self.next_event()? {
                Some(event @ (Event::Failed { .. } | Event::Stopped { .. })) => return Ok(event),
                Some(_) => {}
                None if Instant::now() >= deadline => return Err(MicrovmError::Lost),
                None => {
                    // A wait that fails is judged by the deadline.
                    let _ = is_readable(&self.control, None, Some(deadline));
                }
            }
        }
    }

    /// The next event, `None` if there is none yet; the end of the VMM is an error.
    fn next_event(&mut self) -> Result<Option<Event>, MicrovmError> {
        match self.control.receive() {
            Ok(Some(event)) => Ok(Some(event)),
            Err(ControlError::Socket(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
            Ok(None) => {
                let ending = self.process.wait(Instant::now() + LAST_WORDS);
                Err(MicrovmError::vmm_died(ending, self.process.last_words()))
            }
        }
    }
}

fn ended_by(event: Event) -> MicrovmError {
    match event {
        Event::Failed { message, hint } => MicrovmError::VmmFailed { message, hint },
        Event::Stopped { reason, console } => why_it_stopped(&reason, &console),
        Event::Started { .. } | Event::Paused | Event::Resumed => MicrovmError::Lost,
    }
}

/// What there is to read.
#[derive(Debug, Clone, Copy)]
struct Ready {
    control: bool,
    stream: bool,
    cancel: bool,
}

impl Ready {
    fn wait(
        control: &Control,
        stream: &UnixStream,
        cancel: Option<BorrowedFd>,
        deadline: Instant,
    ) -> Result<Self, MicrovmError> {
        let mut fds = vec![
            PollFd::new(control, PollFlags::IN),
            PollFd::new(stream, PollFlags::IN),
        ];
        fds.extend(cancel.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match poll(&mut fds, Some(&remaining(deadline))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(ControlError::Socket(errno.into()).into()),
        }
        let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        Ok(Self {
            control: ready(0),
            stream: ready(1),
            cancel: ready(2),
        })
    }
}

impl AsFd for Owned {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::OwnedFd;

    use rustix::net::{RecvFlags, SendFlags, send};
    use vmm::control::StopReason;

    use super::*;
    use crate::tier::process::tests::start;

    /// A machine whose VMM is played by the test.
    struct Play {
        owned: Owned,
        vmm: Option<OwnedFd>,
        stream: UnixStream,
        agent: UnixStream,
    }

    impl Play {
        fn new() -> Self {
            let (socket, theirs, process) = start("sleeps");
            let control = Control { socket };
            let (stream, agent) = UnixStream::pair().unwrap();
            Self {
                owned: Owned { control, process },
                vmm: Some(theirs),
                stream,
                agent,
            }
        }

        fn tell(&self, event: &Event) {
            let message = serde_json::to_vec(event).unwrap();
            send(self.vmm.as_ref().unwrap(), &message, SendFlags::empty()).unwrap();
        }

        fn hang_up(&mut self) {
            self.owned.process.kill();
            self.vmm = None;
        }

        fn wait(&mut self, patience: Duration) -> Result<Vec<TracePoint>, MicrovmError> {
            self.owned
                .wait_until_ready(&self.stream, Instant::now() + patience, None)
        }
    }

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(50);

    fn started() -> Event {
        Event::Started {
            trace: vec![TracePoint {
                name: "memory".to_owned(),
                monotonic_ns: 7,
            }],
        }
    }

    fn stopped(reason: StopReason, console: &str) -> Event {
        Event::Stopped {
            reason,
            console: console.to_owned(),
        }
    }

    #[test]
    fn it_is_ready_when_the_agent_speaks() {
        let mut play = Play::new();
        play.tell(&started());
        play.agent.write_all(b"hello").unwrap();
        assert_eq!(play.wait(LONG).unwrap().len(), 1);
    }

    #[test]
    fn a_vmm_that_gives_up_is_quoted() {
        let mut play = Play::new();
        let message = "cannot open the kernel".to_owned();
        play.tell(&Event::Failed {
            message,
            hint: Some("look for it".to_owned()),
        });
        play.hang_up();
        let error = play.wait(LONG).unwrap_err();
        assert_eq!(error.to_string(), "cannot open the kernel");
        assert_eq!(error.hint().as_deref(), Some("look for it"));
    }

    #[test]
    fn a_guest_that_panics_early_is_told_with_its_console() {
        let mut play = Play::new();
        play.tell(&started());
        play.tell(&stopped(
            StopReason::Reset,
            "Kernel panic - not syncing: no init\n",
        ));
        play.hang_up();
        let error = play.wait(LONG).unwrap_err();
        assert_eq!(error.to_string(), "the guest kernel panicked: no init");
    }

    #[test]
    fn a_vmm_that_is_killed_is_told_with_the_signal() {
        let mut play = Play::new();
        play.tell(&started());
        play.hang_up();
        assert_eq!(
            play.wait(LONG).unwrap_err().to_string(),
            "the VMM was killed by signal 9"
        );
    }

    #[test]
    fn a_silent_guest_is_given_up_at_the_deadline_with_its_console() {
        let mut play = Play::new();
        play.tell(&started());
        let vmm = play.vmm.as_ref().unwrap().try_clone().unwrap();
        let obedient = std::thread::spawn(move || {
            let mut buffer = [0; 100];
            let (length, _) = rustix::net::recv(&vmm, &mut buffer, RecvFlags::empty()).unwrap();
            assert_eq!(&buffer[..length], br#"{"command":"stop"}"#);
            let last = stopped(StopReason::Requested, "still probing disks\n");
            send(
                &vmm,
                &serde_json::to_vec(&last).unwrap(),
                SendFlags::empty(),
            )
            .unwrap();
        });
        let error = play.wait(SHORT).unwrap_err();
        obedient.join().unwrap();
        assert!(matches!(error, MicrovmError::GuestSilent { .. }), "{error}");
        assert_eq!(error.console(), ["still probing disks"]);
    }

    #[test]
    fn a_silent_vmm_is_told_apart_from_a_silent_guest() {
        let error = Play::new().wait(SHORT).unwrap_err();
        assert!(matches!(error, MicrovmError::VmmSilent), "{error}");
    }

    #[test]
    fn the_caller_can_give_up() {
        let mut play = Play::new();
        let (cancel, mut hand) = UnixStream::pair().unwrap();
        hand.write_all(b"!").unwrap();
        let deadline = Instant::now() + LONG;
        let error = play
            .owned
            .wait_until_ready(&play.stream, deadline, Some(cancel.as_fd()));
        assert!(matches!(error, Err(MicrovmError::Cancelled)));
    }

    #[test]
    fn a_stream_that_breaks_is_explained_by_the_vmm() {
        let mut play = Play::new();
        play.tell(&stopped(StopReason::PowerOff, ""));
        play.hang_up();
        let error = play.owned.why_gone();
        assert_eq!(error.to_string(), "the guest ended: it switched itself off");
    }
}
