//! The host's end of a lane, if the agent takes the one that it is offered; else of a stream.

use std::io::{self, BufRead, Read, Write};

use agent_archive::buffered::read_buffered;
use agent_archive::lane::{Answer, LaneReader, LaneWriter, Memory};
use agent_archive::room::{Room, WithRoom};

/// What data is written to: a stream, or a lane if the agent has taken it.
pub(super) enum Outlet<W: Write, R: Read> {
    /// The agent has not said yet whether it takes the lane.
    Asking(Option<(Memory, W, R)>),
    Stream(WithRoom<W>),
    Lane(LaneWriter<Memory, W, R>),
}

impl<W: Write, R: Read> Outlet<W, R> {
    /// With the lane that was asked for, if one was: then `answers` is what the agent sends.
    pub(super) fn new(lane: Option<Memory>, stream: W, answers: R) -> Self {
        match lane {
            Some(lane) => Self::Asking(Some((lane, stream, answers))),
            None => Self::Stream(WithRoom::new(stream)),
        }
    }

    /// Waits for the agent's answer, if there is none yet.
    fn settle(&mut self) -> io::Result<()> {
        let Self::Asking(asking) = self else {
            return Ok(());
        };
        let Some((lane, stream, mut answers)) = asking.take() else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        // An agent that ends instead of answering says elsewhere why.
        let answer = Answer::read(&mut answers).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::ErrorKind::BrokenPipe.into(),
            _ => error,
        })?;
        *self = match answer {
            Answer::Taken => Self::Lane(LaneWriter::new(lane, stream, answers)),
            Answer::Refused => Self::Stream(WithRoom::new(stream)),
        };
        Ok(())
    }
}

impl<W: Write, R: Read> Write for Outlet<W, R> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.settle()?;
        match self {
            Self::Asking(_) => Err(io::ErrorKind::BrokenPipe.into()),
            Self::Stream(stream) => stream.write(data),
            Self::Lane(lane) => lane.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.settle()?;
        match self {
            Self::Asking(_) => Err(io::ErrorKind::BrokenPipe.into()),
            Self::Stream(stream) => stream.flush(),
            Self::Lane(lane) => lane.flush(),
        }
    }
}

impl<W: Write, R: Read> Room for Outlet<W, R> {
    fn lend(&mut self, most: usize, fill: &mut dyn FnMut(&mut [u8]) -> usize) -> io::Result<usize> {
        self.settle()?;
        match self {
            Self::Asking(_) => Err(io::ErrorKind::BrokenPipe.into()),
            Self::Stream(stream) => stream.lend(most, fill),
            Self::Lane(lane) => lane.lend(most, fill),
        }
    }
}

/// What data is read from: a stream, or a lane if the agent has taken it.
pub(super) enum Inlet<R: BufRead, W: Write> {
    /// The agent has not said yet whether it takes the lane.
    Asking(Option<(Memory, R, W)>),
    Stream(R),
    Lane(LaneReader<Memory, R, W>),
}

impl<R: BufRead, W: Write> Inlet<R, W> {
    /// With the lane that was asked for, if one was: then `freed` goes to the agent.
    pub(super) fn new(lane: Option<Memory>, stream: R, freed: W) -> Self {
        match lane {
            Some(lane) => Self::Asking(Some((lane, stream, freed))),
            None => Self::Stream(stream),
        }
    }
}

impl<R: BufRead, W: Write> BufRead for Inlet<R, W> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if let Self::Asking(asking) = self {
            let Some((lane, mut stream, freed)) = asking.take() else {
                return Ok(&[]);
            };
            *self = match Answer::read(&mut stream) {
                Ok(Answer::Taken) => Self::Lane(LaneReader::new(lane, stream, freed)),
                Ok(Answer::Refused) => Self::Stream(stream),
                // An agent that ends instead of answering says elsewhere why.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(&[]),
                Err(error) => return Err(error),
            };
        }
        match self {
            Self::Asking(_) => Ok(&[]),
            Self::Stream(stream) => stream.fill_buf(),
            Self::Lane(lane) => lane.fill_buf(),
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Self::Asking(_) => {}
            Self::Stream(stream) => stream.consume(count),
            Self::Lane(lane) => lane.consume(count),
        }
    }
}

impl<R: BufRead, W: Write> Read for Inlet<R, W> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, space)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_without_lanes_gets_a_stream() {
        let mut sent = Vec::new();
        let mut outlet = Outlet::new(Some(Memory::new().unwrap()), &mut sent, &[0][..]);
        outlet.write_all(b"data").unwrap();
        outlet.flush().unwrap();
        drop(outlet);
        assert_eq!(sent, b"data");
        let mut inlet = Inlet::new(Some(Memory::new().unwrap()), &b"\0data"[..], io::sink());
        let mut come = Vec::new();
        inlet.read_to_end(&mut come).unwrap();
        assert_eq!(come, b"data");
    }

    #[test]
    fn an_agent_that_ends_before_it_answers_says_elsewhere_why() {
        let lane = || Some(Memory::new().unwrap());
        let mut outlet = Outlet::new(lane(), io::sink(), io::empty());
        let error = outlet.write_all(b"data").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let mut inlet = Inlet::new(lane(), io::empty(), io::sink());
        assert_eq!(inlet.read(&mut [0; 8]).unwrap(), 0);
    }
}
