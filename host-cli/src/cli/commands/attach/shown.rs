//! What a command writes that is stayed with, on its way to whoever looks.

use std::io::{self, Write};

use agent_protocol::message::{ExitReport, OutputStream};

use crate::cli::commands::follow::{TOLD_LOST, told_missing};
use crate::cli::report::{Stdout, say};
use crate::error::{ErrorKind, Problem};
use crate::registry::output::Piece;

/// How much of each output is collected for a result in JSON.
const COLLECTED: usize = 1 << 20;

/// Where what it writes goes.
pub(super) enum Shown {
    /// To our own outputs.
    Live,
    /// To memory, as much as there is room for, and then into a result in JSON.
    Collected { output: [Vec<u8>; 2], is_cut: bool },
}

impl Shown {
    /// Shows something. Returns how the command ended, if that is it.
    pub(super) fn take(&mut self, piece: Piece) -> Result<Option<ExitReport>, Problem> {
        match (piece, self) {
            (Piece::Output { stream, data, .. }, Self::Live) => {
                let written = match stream {
                    OutputStream::Stdout => write_all(&mut Stdout, &data),
                    OutputStream::Stderr => write_all(&mut io::stderr().lock(), &data),
                };
                written.map_err(|error| Problem::of(ErrorKind::Output, &error))?;
                Ok(None)
            }
            (Piece::Output { stream, data, .. }, Self::Collected { output, is_cut }) => {
                let [stdout, stderr] = output;
                let into = match stream {
                    OutputStream::Stdout => stdout,
                    OutputStream::Stderr => stderr,
                };
                let room = COLLECTED.saturating_sub(into.len()).min(data.len());
                into.extend_from_slice(data.get(..room).unwrap_or_default());
                *is_cut |= room < data.len();
                Ok(None)
            }
            (Piece::Lost { .. }, Self::Live) => {
                say(&format!("sovereign: {TOLD_LOST}\n"));
                Ok(None)
            }
            (Piece::Missing { bytes }, Self::Live) => {
                say(&format!("sovereign: {}\n", told_missing(bytes)));
                Ok(None)
            }
            (Piece::Lost { .. } | Piece::Missing { .. }, Self::Collected { is_cut, .. }) => {
                *is_cut = true;
                Ok(None)
            }
            (Piece::Ended(report), _) => Ok(Some(report)),
        }
    }
}

fn write_all(to: &mut impl Write, data: &[u8]) -> io::Result<()> {
    to.write_all(data)?;
    to.flush()
}
