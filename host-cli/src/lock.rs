//! Files that stand for a right: who has the file's lock has it.

use std::fs::File;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How often to look whether a lock is free.
const PAUSE: Duration = Duration::from_millis(3);

/// Takes the lock of a file for as long as that is open.
///
/// # Errors
///
/// `WouldBlock` if somebody else still has it after `patience`, or the system's.
pub(crate) fn lock(file: &File, patience: Duration) -> io::Result<()> {
    let end = Instant::now() + patience;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if Instant::now() < end => thread::sleep(PAUSE),
            result => return Ok(result?),
        }
    }
}
