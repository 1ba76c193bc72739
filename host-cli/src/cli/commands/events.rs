//! `sovereign events`: what happens to sandboxes.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, SystemTime};

use crate::cli::args::EventsArgs;
use crate::cli::report::print;
use crate::error::Problem;
use crate::registry::Registry;
use crate::registry::events::Event;

/// How often to look for more.
const LOOK: Duration = Duration::from_millis(100);

/// Shows what happens, until somebody ends it.
///
/// # Errors
///
/// If it cannot be read.
pub(in crate::cli) fn events(args: &EventsArgs) -> Result<u8, Problem> {
    let registry = Registry::open_default()?;
    let path = registry.events_path();
    let since = match (args.since, args.no_follow) {
        (Some(since), _) => since,
        (None, true) => SystemTime::UNIX_EPOCH,
        (None, false) => SystemTime::now(),
    };
    let mut lines = Lines::default();
    if let Ok(mut old) = File::open(path.with_extension("old")) {
        lines.read(&mut old)?;
    }
    let mut current: Option<File> = None;
    loop {
        if let Some(file) = &mut current {
            lines.read(file)?;
        }
        // It may have been put aside, or not been there.
        let newest = fs::metadata(&path).map(|metadata| metadata.ino()).ok();
        let ours = current.as_ref().and_then(|file| file.metadata().ok());
        if newest.is_some() && newest != ours.map(|metadata| metadata.ino()) {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(0))?;
            lines.read(&mut file)?;
            current = Some(file);
        }
        print(&lines.take_since(since))?;
        if args.no_follow {
            return Ok(0);
        }
        thread::sleep(LOOK);
    }
}

/// Lines that have come.
#[derive(Debug, Default)]
struct Lines {
    text: Vec<u8>,
}

impl Lines {
    fn read(&mut self, file: &mut File) -> io::Result<()> {
        file.read_to_end(&mut self.text).map(drop)
    }

    /// The whole lines of events that are no older, and forgets them.
    fn take_since(&mut self, since: SystemTime) -> String {
        let end = self.text.iter().rposition(|byte| *byte == b'\n');
        let whole: Vec<u8> = self.text.drain(..end.map_or(0, |end| end + 1)).collect();
        let is_wanted = |line: &&str| {
            serde_json::from_str::<Event>(line).is_ok_and(|event| event.time.0 >= since)
        };
        String::from_utf8_lossy(&whole)
            .lines()
            .filter(is_wanted)
            .fold(String::new(), |text, line| text + line + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_of_events_are_shown() {
        let event =
            r#"{"time":"2026-01-01T00:00:00.000Z","event":"ended","id":"0123456789ab","name":"x"}"#;
        let mut lines = Lines {
            text: format!("{event}\nnoise\n{{\"half").into_bytes(),
        };
        assert_eq!(
            lines.take_since(SystemTime::UNIX_EPOCH),
            format!("{event}\n")
        );
        assert_eq!(lines.text, b"{\"half");
        assert_eq!(lines.take_since(SystemTime::UNIX_EPOCH), "");
    }
}
