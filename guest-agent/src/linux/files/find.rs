//! Files that fit, by their names and by what they contain.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agent_protocol::files::{FileFault, Transfer};
use memchr::memmem::Finder;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::entries::{Records, entry};
use super::{Out, fault};

/// How much of a file is searched at a time.
const CHUNK: usize = 64 * 1024;
/// The longest text that is looked for.
const MAX_TEXT: usize = 4 * 1024;

/// Sends an entry for each file below `path` that fits. What cannot be read is passed over; what lies
/// too deep for a path is told when all the others have been.
pub(crate) fn find(
    path: &Path,
    name: Option<&[u8]>,
    contains: Option<&[u8]>,
    out: Out,
) -> Result<Transfer, FileFault> {
    if contains.is_some_and(|text| text.len() > MAX_TEXT) {
        return Err(fault::invalid(path, "the text to look for is too long"));
    }
    if let Some(Err(error)) = name.map(fast_glob::validate) {
        return Err(fault::invalid(
            path,
            &format!("the pattern makes no sense: {error}"),
        ));
    }
    let listed = path.read_dir().map_err(|error| fault::of(path, error))?;
    drop(listed);
    let mut search = Search {
        name,
        finder: contains.map(Finder::new),
        records: Records::new(out),
        too_deep: None,
    };
    search.tree(path)?;
    let sent = search.records.finish()?;
    search.too_deep.map_or(Ok(sent), Err)
}

struct Search<'a> {
    name: Option<&'a [u8]>,
    finder: Option<Finder<'a>>,
    records: Records,
    /// The first folder whose path is longer than one may be.
    too_deep: Option<FileFault>,
}

impl Search<'_> {
    /// Searches the folders below this one, too: one after the other, none of them open meanwhile, so that
    /// depth costs no descriptors.
    fn tree(&mut self, root: &Path) -> Result<(), FileFault> {
        let mut waiting = vec![Vec::new()];
        while let Some(above) = waiting.pop() {
            self.folder(root, &above, &mut waiting)?;
        }
        Ok(())
    }

    /// Searches the folder `above`, from the root, and puts those that are in it to the `waiting`.
    fn folder(
        &mut self,
        root: &Path,
        above: &[u8],
        waiting: &mut Vec<Vec<u8>>,
    ) -> Result<(), FileFault> {
        let folder = match above {
            [] => root.to_path_buf(),
            above => root.join(OsStr::from_bytes(above)),
        };
        let listed = match folder.read_dir() {
            Ok(listed) => listed,
            Err(error) => {
                if Errno::from_io_error(&error) == Some(Errno::NAMETOOLONG) {
                    self.too_deep.get_or_insert(fault::of(&folder, error));
                }
                return Ok(());
            }
        };
        for found in listed.flatten() {
            let name = found.file_name();
            let below: Vec<u8> = match above {
                [] => name.as_bytes().to_vec(),
                above => [above, b"/", name.as_bytes()].concat(),
            };
            let (path, Ok(metadata)) = (found.path(), found.metadata()) else {
                continue;
            };
            let contains = || {
                let Some(finder) = &self.finder else {
                    return true;
                };
                metadata.is_file() && holds(&path, finder).unwrap_or(false)
            };
            if self.is_named(&below, name.as_bytes()) && contains() {
                self.records.push(&entry(&path, &below, &metadata))?;
            }
            if metadata.is_dir() {
                waiting.push(below);
            }
        }
        Ok(())
    }

    fn is_named(&self, path: &[u8], name: &[u8]) -> bool {
        self.name.is_none_or(|pattern| {
            let text = if pattern.contains(&b'/') { path } else { name };
            fast_glob::glob_match(pattern, text)
        })
    }
}

/// Whether a file contains a text, which may lie across two reads. What waits for somebody to write is not
/// waited for: a pipe that has come into the file's place, or a file of the kernel's such as /proc/kmsg.
fn holds(path: &Path, finder: &Finder<'_>) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    let overlap = finder.needle().len().saturating_sub(1);
    let mut buffer = vec![0; CHUNK + overlap];
    let mut kept = 0;
    loop {
        let count = match file.read(buffer.get_mut(kept..).unwrap_or_default()) {
            Ok(0) => return Ok(finder.needle().is_empty()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let end = kept + count;
        if finder.find(buffer.get(..end).unwrap_or_default()).is_some() {
            return Ok(true);
        }
        kept = overlap.min(end);
        buffer.copy_within(end - kept..end, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipe_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(!holds(&path, &Finder::new("")).unwrap());
    }

    #[test]
    fn text_across_reads_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let mut text = vec![b'.'; CHUNK - 3];
        text.extend_from_slice(b"needle");
        text.extend_from_slice(&[b'.'; 100]);
        std::fs::write(&path, text).unwrap();
        assert!(holds(&path, &Finder::new("needle")).unwrap());
        assert!(!holds(&path, &Finder::new("needles")).unwrap());
        assert!(holds(&path, &Finder::new("")).unwrap());
    }
}
