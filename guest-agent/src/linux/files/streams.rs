//! Where an operation's data comes from and goes to: its standard streams, or a lane beside them.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

use agent_archive::digest::DigestWriter;
use agent_archive::lane::{Answer, LaneReader, LaneWriter};
use agent_archive::room::{Room, WithRoom};
use agent_protocol::files::{FileFault, Transfer};

use super::fault;
use super::lane::{self, Lane};

/// How much of a stream is read at a time.
const CHUNK: usize = 64 * 1024;

/// What an operation has.
pub(super) struct Streams {
    lane: Cell<Option<Lane>>,
}

/// What goes to the host, with its digest.
pub(crate) type Out = DigestWriter<Outlet>;

/// Where it goes.
#[derive(Debug)]
pub(crate) enum Outlet {
    /// To standard output.
    Stream(WithRoom<File>),
    /// Through a lane.
    Lane(lane::Writer),
}

/// What comes from the host.
#[derive(Debug)]
pub(crate) enum In {
    /// By standard input.
    Stream(BufReader<File>),
    /// Through a lane.
    Lane(lane::Reader),
}

impl Streams {
    /// Tells the host, if it has asked for a lane, whether there is one.
    pub(super) fn new(asked: bool, lane: Option<Lane>) -> io::Result<Self> {
        if asked {
            let answer = match lane {
                Some(_) => Answer::Taken,
                None => Answer::Refused,
            };
            answer.write(stdout()?)?;
        }
        Ok(Self {
            lane: Cell::new(lane),
        })
    }

    /// The way to the host.
    pub(super) fn output(&self) -> io::Result<Out> {
        let outlet = match self.lane.take() {
            Some(lane) => Outlet::Lane(LaneWriter::new(lane, stdout()?, stdin()?)),
            None => Outlet::Stream(WithRoom::new(stdout()?)),
        };
        Ok(DigestWriter::new(outlet))
    }

    /// The way from the host.
    pub(super) fn input(&self) -> io::Result<In> {
        Ok(match self.lane.take() {
            Some(lane) => In::Lane(LaneReader::new(lane, stdin()?, stdout()?)),
            None => In::Stream(BufReader::with_capacity(CHUNK, stdin()?)),
        })
    }
}

impl Write for Outlet {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => stream.write(data),
            Self::Lane(lane) => lane.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.flush(),
            Self::Lane(lane) => lane.flush(),
        }
    }
}

impl Room for Outlet {
    fn lend(&mut self, most: usize, fill: &mut dyn FnMut(&mut [u8]) -> usize) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => stream.lend(most, fill),
            Self::Lane(lane) => lane.lend(most, fill),
        }
    }
}

impl BufRead for In {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::Stream(stream) => stream.fill_buf(),
            Self::Lane(lane) => lane.fill_buf(),
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Self::Stream(stream) => stream.consume(count),
            Self::Lane(lane) => lane.consume(count),
        }
    }
}

impl Read for In {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => stream.read(space),
            Self::Lane(lane) => lane.read(space),
        }
    }
}

/// Sends what is left, and says what was sent.
pub(crate) fn sent(mut out: Out) -> Result<Transfer, FileFault> {
    out.flush().map_err(|error| fault::stream(&error))?;
    let (bytes, xxh3, _) = out.finish();
    Ok(Transfer {
        bytes,
        xxh3,
        ..Transfer::default()
    })
}

fn stdin() -> io::Result<File> {
    Ok(rustix::io::dup(rustix::stdio::stdin())?.into())
}

fn stdout() -> io::Result<File> {
    Ok(rustix::io::dup(rustix::stdio::stdout())?.into())
}
