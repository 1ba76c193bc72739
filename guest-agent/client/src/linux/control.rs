//! What the owner of a running command wants of it, from another thread or a signal handler.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agent_protocol::message::TerminalSize;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

/// The size of an encoded [`Control`]. Less than PIPE_BUF, so that a pipe never cuts one.
const RECORD_LEN: usize = 6;

const SIGNAL: u8 = 1;
const RESIZE: u8 = 2;
const CANCEL: u8 = 3;

/// Something for the pump to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Send this signal to the command's process group (with a terminal: the foreground one).
    /// Before the command has started, and after it has ended, it ends the wait with
    /// [`ClientError::Interrupted`](crate::ClientError::Interrupted).
    Signal(u8),
    /// Tell the command that its terminal has this size.
    Resize(TerminalSize),
    /// Give up: the stream is closed, and the agent kills the whole process tree.
    Cancel,
}

/// A channel to a pump. The receiver goes into [`PumpIo`](crate::PumpIo).
///
/// # Errors
///
/// The system's, if there are no more descriptors.
pub fn control_channel() -> io::Result<(ControlSender, ControlReceiver)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let is_cancelled = Arc::new(AtomicBool::new(false));
    let sender = ControlSender {
        pipe: write,
        is_cancelled: Arc::clone(&is_cancelled),
    };
    let receiver = ControlReceiver {
        pipe: read,
        is_cancelled,
    };
    Ok((sender, receiver))
}

/// The end that orders come in by.
#[derive(Debug)]
pub struct ControlSender {
    pipe: OwnedFd,
    /// An order to cancel that the pipe had no room for.
    is_cancelled: Arc<AtomicBool>,
}

impl ControlSender {
    /// Passes an order on. Makes a `write` or two and nothing else, so it is allowed in a signal handler.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when hundreds of orders are waiting, but never for [`Control::Cancel`], which
    /// overtakes them; `BrokenPipe` when nobody listens any more.
    pub fn send(&self, control: Control) -> io::Result<()> {
        match (self.write(control), control) {
            (Err(Errno::AGAIN), Control::Cancel) => {
                self.is_cancelled.store(true, Ordering::SeqCst);
                // Whoever has emptied the pipe before it could see that would not look again.
                match self.write(control) {
                    Err(Errno::AGAIN) => Ok(()),
                    written => Ok(written?),
                }
            }
            (written, _) => Ok(written?),
        }
    }

    fn write(&self, control: Control) -> Result<(), Errno> {
        rustix::io::write(&self.pipe, &control.encode()).map(drop)
    }

    /// A second sender for the same receiver.
    ///
    /// # Errors
    ///
    /// The system's, if there are no more descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            pipe: self.pipe.try_clone()?,
            is_cancelled: Arc::clone(&self.is_cancelled),
        })
    }
}

/// The pump's end.
#[derive(Debug)]
pub struct ControlReceiver {
    pipe: OwnedFd,
    is_cancelled: Arc<AtomicBool>,
}

impl ControlReceiver {
    /// The next order, for whoever pumps by himself; `None` if none is waiting.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn take(&self) -> io::Result<Option<Control>> {
        Ok(match self.receive()? {
            Received::Order(order) => Some(order),
            Received::Nothing | Received::Closed => None,
        })
    }

    /// The next order, if one is waiting.
    pub(crate) fn receive(&self) -> io::Result<Received> {
        if self.is_cancelled.swap(false, Ordering::SeqCst) {
            return Ok(Received::Order(Control::Cancel));
        }
        let mut record = [0; RECORD_LEN];
        match rustix::io::read(&self.pipe, &mut record) {
            Ok(RECORD_LEN) => {
                Ok(Control::decode(record).map_or(Received::Nothing, Received::Order))
            }
            Ok(0) => Ok(Received::Closed),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(Received::Nothing),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for ControlReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// What there is on a control channel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// This.
    Order(Control),
    /// Nothing at this moment.
    Nothing,
    /// Nothing ever again: all senders are gone.
    Closed,
}

impl Control {
    fn encode(self) -> [u8; RECORD_LEN] {
        match self {
            Self::Signal(number) => [SIGNAL, number, 0, 0, 0, 0],
            Self::Resize(size) => {
                let [rows, more_rows] = size.rows.to_le_bytes();
                let [columns, more_columns] = size.columns.to_le_bytes();
                [RESIZE, 0, rows, more_rows, columns, more_columns]
            }
            Self::Cancel => [CANCEL, 0, 0, 0, 0, 0],
        }
    }

    fn decode(record: [u8; RECORD_LEN]) -> Option<Self> {
        let [kind, number, a, b, c, d] = record;
        match kind {
            SIGNAL => Some(Self::Signal(number)),
            RESIZE => Some(Self::Resize(TerminalSize {
                rows: u16::from_le_bytes([a, b]),
                columns: u16::from_le_bytes([c, d]),
            })),
            CANCEL => Some(Self::Cancel),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrive_in_order() {
        let (sender, receiver) = control_channel().unwrap();
        let size = TerminalSize {
            rows: 300,
            columns: 1000,
        };
        let orders = [Control::Signal(15), Control::Resize(size), Control::Cancel];
        for order in orders {
            sender.send(order).unwrap();
        }
        for order in orders {
            assert_eq!(receiver.receive().unwrap(), Received::Order(order));
        }
        assert_eq!(receiver.receive().unwrap(), Received::Nothing);
        drop(sender);
        assert_eq!(receiver.receive().unwrap(), Received::Closed);
    }

    #[test]
    fn cancelling_needs_no_room() {
        let (sender, receiver) = control_channel().unwrap();
        while sender.send(Control::Signal(15)).is_ok() {}
        sender.send(Control::Cancel).unwrap();
        let cancel = Received::Order(Control::Cancel);
        assert_eq!(receiver.receive().unwrap(), cancel);
        let signal = Received::Order(Control::Signal(15));
        assert_eq!(receiver.receive().unwrap(), signal);
    }

    #[test]
    fn sender_without_receiver_is_told() {
        let (sender, receiver) = control_channel().unwrap();
        drop(receiver);
        let error = sender.send(Control::Cancel).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
