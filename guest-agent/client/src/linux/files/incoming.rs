//! What a sandbox sends, to be read: the session goes on only while somebody reads, in the reader's own
//! thread, so that data takes no way round through a pipe.

use std::fmt;
use std::io::{self, BufRead, Read};
use std::sync::{Arc, Mutex, PoisonError};

use agent_archive::buffered::read_buffered;

use crate::error::ClientError;
use crate::linux::pump::{Pump, Turn};
use crate::linux::sink::Taker;

/// Where the session lays what has come: at most what comes at a time.
#[derive(Clone, Default)]
pub(super) struct Basket(Arc<Mutex<Vec<u8>>>);

impl Taker for Basket {
    fn take(&mut self, data: &[u8]) -> io::Result<()> {
        self.with(|held| held.extend_from_slice(data));
        Ok(())
    }
}

impl Basket {
    fn with<T>(&self, work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Basket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Basket").finish_non_exhaustive()
    }
}

/// A session's output as a reader. It ends, too, when the session fails: [`finish`](Self::finish)
/// tells.
pub(super) struct Incoming<'a> {
    pump: Pump<'a>,
    basket: Basket,
    /// What was taken out of the basket, and how much of it was handed out.
    ready: Vec<u8>,
    given: usize,
    ended: Option<Result<(), ClientError>>,
}

impl<'a> Incoming<'a> {
    /// A session whose standard output goes to this basket.
    pub(super) fn new(pump: Pump<'a>, basket: Basket) -> Self {
        Self {
            pump,
            basket,
            ready: Vec::new(),
            given: 0,
            ended: None,
        }
    }

    /// Reads what is left.
    ///
    /// # Errors
    ///
    /// What ended the session, if that was not its report.
    pub(super) fn finish(mut self) -> Result<(), ClientError> {
        while self.refill() {}
        self.ended.unwrap_or(Ok(()))
    }

    /// Waits until there is something to hand out. `false` at the end.
    fn refill(&mut self) -> bool {
        self.ready.clear();
        self.given = 0;
        loop {
            let ready = &mut self.ready;
            self.basket.with(|held| std::mem::swap(held, ready));
            if !self.ready.is_empty() {
                return true;
            }
            if self.ended.is_some() {
                return false;
            }
            match self.pump.turn() {
                Ok(Turn::GoesOn) => {}
                // Nobody can leave it: there are no keys for it.
                Ok(Turn::Finished(_) | Turn::Left) => self.ended = Some(Ok(())),
                Err(error) => self.ended = Some(Err(error)),
            }
        }
    }
}

impl BufRead for Incoming<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.given >= self.ready.len() && !self.refill() {
            return Ok(&[]);
        }
        Ok(self.ready.get(self.given..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.given += count;
    }
}

impl Read for Incoming<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, space)
    }
}
