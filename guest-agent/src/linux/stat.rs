//! What `/proc` tells of a process in one line: proc_pid_stat(5).

use std::str::FromStr;

use rustix::fs::{Mode, OFlags};

/// It is a few hundred bytes, and what is asked of it comes first.
const MAX_STAT: usize = 1024;

/// The fields behind the name, which may hold anything: parentheses, blanks, and no text at all.
#[derive(Debug)]
pub(crate) struct Stat(String);

impl Stat {
    /// Of a process that can be seen.
    pub(crate) fn read(number: i32) -> Option<Self> {
        let path = format!("/proc/{number}/stat");
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = [0; MAX_STAT];
        let length = rustix::io::read(file, &mut text).ok()?;
        Self::parse(text.get(..length)?)
    }

    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let name_end = text.iter().rposition(|byte| *byte == b')')?;
        let fields = String::from_utf8(text.get(name_end + 1..)?.to_vec());
        fields.ok().map(Self)
    }

    /// A field by its number in the manual, from 3 on.
    pub(crate) fn field<T: FromStr>(&self, number: usize) -> Option<T> {
        let mut fields = self.0.split_ascii_whitespace();
        fields.nth(number.checked_sub(3)?)?.parse().ok()
    }

    /// Whether it has ended, and nobody has reaped it yet.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.field(3), Some('Z' | 'X' | 'x'))
    }

    /// The number of its parent: 0 if that cannot be seen from here.
    pub(crate) fn parent(&self) -> Option<i32> {
        self.field(4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_passed_over() {
        for name in [&b"a"[..], b"a) b (c", b"S 0 ) R 12 7", b"\xff\xfe)"] {
            let text = [b"7 (", name, b") Z 3 7 7 0 -1 4228352\n"].concat();
            let stat = Stat::parse(&text).unwrap();
            assert!(stat.is_dead());
            assert_eq!((stat.parent(), stat.field(9)), (Some(3), Some(4_228_352)));
            assert_eq!(stat.field::<u64>(10), None);
        }
    }

    #[test]
    fn garbage_is_no_process() {
        assert!(Stat::parse(b"").is_none());
        assert!(Stat::parse(b"1 (x").is_none());
        let cut = Stat::parse(b"1 (x) R").unwrap();
        assert_eq!((cut.is_dead(), cut.parent()), (false, None));
        assert_eq!(Stat::parse(b"1 (x) R a b").unwrap().parent(), None);
    }

    #[test]
    fn own_line_is_read() {
        let own = Stat::read(rustix::process::getpid().as_raw_nonzero().get()).unwrap();
        let parent = rustix::process::getppid().unwrap();
        assert_eq!(own.parent(), Some(parent.as_raw_nonzero().get()));
        assert!(!own.is_dead());
    }
}
