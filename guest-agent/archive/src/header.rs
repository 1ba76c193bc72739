//! What headers say beyond what fits in one: POSIX.1-2001 ("pax") records.

use std::io::Write;

use tar::{EntryType, Header};

use crate::error::ArchiveError;

/// The size of a block, the unit of the format.
pub(crate) const BLOCK: usize = 512;
/// The longest name that fits in a header.
const MAX_NAME: usize = 100;
/// The longest extension that is read: more than the system's longest path, twice.
pub(crate) const MAX_EXTENSION: u64 = 64 * 1024;

/// A moment, since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Moment {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// What one entry's records say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) user: Option<u64>,
    pub(crate) group: Option<u64>,
    pub(crate) modified: Option<Moment>,
    /// It is a sparse file in a form that is not understood.
    pub(crate) foreign_sparse: bool,
}

impl Records {
    /// Reads records: `LENGTH KEY=VALUE\n` each.
    pub(crate) fn parse(mut text: &[u8]) -> Result<Self, ArchiveError> {
        let malformed = || ArchiveError::Malformed("an extended header cannot be read");
        let mut records = Self::default();
        while !text.is_empty() {
            let blank = text.iter().position(|byte| *byte == b' ');
            let blank = blank.ok_or_else(malformed)?;
            let length = text.get(..blank).and_then(number).ok_or_else(malformed)?;
            let length = usize::try_from(length).map_err(|_| malformed())?;
            let record = text.get(blank + 1..length).ok_or_else(malformed)?;
            let record = record.strip_suffix(b"\n").ok_or_else(malformed)?;
            let equals = record.iter().position(|byte| *byte == b'=');
            let (key, value) = record.split_at(equals.ok_or_else(malformed)?);
            let value = value.get(1..).unwrap_or_default();
            records.note(key, value).ok_or_else(malformed)?;
            text = text.get(length..).unwrap_or_default();
        }
        Ok(records)
    }

    fn note(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.user = Some(number(value)?),
            b"gid" => self.group = Some(number(value)?),
            b"mtime" => self.modified = Some(Moment::parse(value)?),
            key if key.starts_with(b"GNU.sparse.") => self.foreign_sparse = true,
            _ => {}
        }
        Some(())
    }
}

impl Moment {
    /// Decimal seconds, with a fraction or without, before the epoch or after.
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (is_negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let seconds = i64::try_from(number(whole.as_bytes())?).ok()?;
        let mut nanoseconds = 0;
        if !fraction.is_empty() {
            number(fraction.get(..9).unwrap_or(fraction).as_bytes())?;
            let digits = format!("{fraction:0<9}");
            nanoseconds = digits.get(..9)?.parse().ok()?;
        }
        Some(match (is_negative, nanoseconds) {
            (false, _) => Self {
                seconds,
                nanoseconds,
            },
            (true, 0) => Self {
                seconds: -seconds,
                nanoseconds,
            },
            (true, _) => Self {
                seconds: -seconds - 1,
                nanoseconds: 1_000_000_000 - nanoseconds,
            },
        })
    }

    fn text(self) -> String {
        match (self.seconds < 0, self.nanoseconds) {
            (_, 0) => self.seconds.to_string(),
            (false, part) => format!("{}.{part:09}", self.seconds),
            (true, part) => format!("-{}.{:09}", -(self.seconds + 1), 1_000_000_000 - part),
        }
    }
}

/// Digits only.
fn number(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| is_number)?;
    text.parse().ok()
}

/// Writes a header, before it one for what does not fit in it.
pub(crate) fn write(
    header: &mut Header,
    path: &[u8],
    link: Option<&[u8]>,
    modified: Moment,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let mut records = Vec::new();
    if path.len() >= MAX_NAME {
        record("path", path, &mut records);
    }
    set(&mut header.as_old_mut().name, path);
    if let Some(link) = link {
        if link.len() >= MAX_NAME {
            record("linkpath", link, &mut records);
        }
        set(&mut header.as_old_mut().linkname, link);
    }
    header.set_mtime(u64::try_from(modified.seconds).unwrap_or(0));
    if modified.nanoseconds != 0 || modified.seconds < 0 {
        record("mtime", modified.text().as_bytes(), &mut records);
    }
    if !records.is_empty() {
        let mut extension = Header::new_ustar();
        extension.set_entry_type(EntryType::XHeader);
        extension.set_mode(0o644);
        extension.set_size(records.len() as u64);
        set(&mut extension.as_old_mut().name, b"././@PaxHeader");
        extension.set_cksum();
        out.write_all(extension.as_bytes())?;
        out.write_all(&records)?;
        pad(records.len() as u64, out)?;
    }
    header.set_cksum();
    out.write_all(header.as_bytes())
}

/// Fills the last block up.
pub(crate) fn pad(length: u64, out: &mut impl Write) -> std::io::Result<()> {
    out.write_all([0; BLOCK].get(..padding(length)).unwrap_or_default())
}

/// How many bytes fill up the last block of so many.
pub(crate) fn padding(length: u64) -> usize {
    let block = BLOCK as u64;
    usize::try_from((block - length % block) % block).unwrap_or(0)
}

fn set(field: &mut [u8; MAX_NAME], text: &[u8]) {
    *field = [0; MAX_NAME];
    for (place, byte) in field.iter_mut().zip(text) {
        *place = *byte;
    }
}

/// A record's length counts its own digits.
fn record(key: &str, value: &[u8], out: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn moments_before_the_epoch_are_told() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "0"),
            (5, 20, "5.000000020"),
            (-5, 0, "-5"),
            (-1, 500_000_000, "-0.500000000"),
            (-2, 250_000_000, "-1.750000000"),
        ] {
            let moment = Moment {
                seconds,
                nanoseconds,
            };
            assert_eq!(moment.text(), text);
            assert_eq!(Moment::parse(text.as_bytes()), Some(moment));
        }
        assert_eq!(Moment::parse(b"1.x"), None);
    }

    proptest! {
        #[test]
        fn records_survive(
            path in prop::collection::vec(1u8.., 0..300),
            seconds in -5_000_000_000i64..5_000_000_000,
            nanoseconds in 0u32..1_000_000_000,
        ) {
            let modified = Moment { seconds, nanoseconds };
            let mut text = Vec::new();
            record("path", &path, &mut text);
            record("mtime", modified.text().as_bytes(), &mut text);
            record("other", b"a=b", &mut text);
            let expected = Records { path: Some(path), modified: Some(modified), ..Records::default() };
            prop_assert_eq!(Records::parse(&text).unwrap(), expected);
        }

        #[test]
        fn arbitrary_records_never_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Records::parse(&text);
        }
    }
}
