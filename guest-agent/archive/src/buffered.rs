//! Reading what a reader has in its buffer.

use std::io::{self, BufRead, Read};

/// Reads from a reader's buffer, as its `Read` may.
///
/// # Errors
///
/// The reader's.
pub fn read_buffered(reader: &mut impl BufRead, space: &mut [u8]) -> io::Result<usize> {
    if space.is_empty() {
        return Ok(0);
    }
    let count = reader.fill_buf()?.read(space)?;
    reader.consume(count);
    Ok(count)
}
