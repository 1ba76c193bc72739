//! Standard output, for whoever may stop reading it.
//!
//! `sovereign fs cat work:/big | head -1` ends as `cat big | head -1` does: without a word, of SIGPIPE.
//! Only here, since a pipe or a socket to a sandbox that breaks is something to be told.

use std::io::{self, ErrorKind, Write};

use crate::cli::system;

/// Standard output. When nobody reads it any more, this program ends.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Stdout;

impl Write for Stdout {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        read_on(io::stdout().write(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        read_on(io::stdout().flush())
    }
}

fn read_on<T>(written: io::Result<T>) -> io::Result<T> {
    if let Err(error) = &written
        && error.kind() == ErrorKind::BrokenPipe
    {
        system::end_unread();
    }
    written
}
