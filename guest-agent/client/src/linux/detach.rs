//! The keys that a user types to leave a command without ending it.

/// Finds a sequence of keys in what is typed. What may be its beginning is held back until the next
/// key tells.
#[derive(Debug)]
pub struct DetachKeys<'a> {
    keys: &'a [u8],
    /// How many of them have just been typed.
    typed: usize,
}

impl<'a> DetachKeys<'a> {
    /// No keys mean that nothing is looked for.
    #[must_use]
    pub const fn new(keys: &'a [u8]) -> Self {
        Self { keys, typed: 0 }
    }

    /// How many bytes more than are typed may be passed on: those that were held back.
    #[must_use]
    pub const fn held_back(&self) -> usize {
        self.typed
    }

    /// Looks at what was typed: the first `count` bytes of `space`, which has room for what was
    /// [held back](Self::held_back) as well. Returns how many bytes are to be passed on, or `None`
    /// when the sequence is complete.
    pub fn filter(&mut self, space: &mut [u8], count: usize) -> Option<usize> {
        if self.keys.is_empty() {
            return Some(count);
        }
        let typed: Vec<u8> = space.iter().take(count).copied().collect();
        let mut passed = Vec::with_capacity(count + self.typed);
        for byte in typed {
            if self.keys.get(self.typed) == Some(&byte) {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    return None;
                }
                continue;
            }
            passed.extend_from_slice(self.keys.get(..self.typed).unwrap_or_default());
            self.typed = usize::from(self.keys.first() == Some(&byte));
            if self.typed == 0 {
                passed.push(byte);
            }
        }
        let room = space.len().min(passed.len());
        for (place, byte) in space.iter_mut().zip(&passed) {
            *place = *byte;
        }
        Some(room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is passed on of these reads; `None` at the end if it was left.
    fn passed(keys: &[u8], reads: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut detach = DetachKeys::new(keys);
        let mut all = Vec::new();
        for read in reads {
            let mut space = vec![0; read.len() + detach.held_back()];
            space[..read.len()].copy_from_slice(read);
            match detach.filter(&mut space, read.len()) {
                Some(count) => all.extend_from_slice(&space[..count]),
                None => return (all, true),
            }
        }
        (all, false)
    }

    #[test]
    fn the_sequence_is_found_across_reads() {
        assert_eq!(passed(b"\x10\x11", &[b"\x10\x11"]), (vec![], true));
        assert_eq!(
            passed(b"\x10\x11", &[b"ls\n", b"\x10", b"\x11"]),
            (b"ls\n".to_vec(), true)
        );
    }

    #[test]
    fn what_only_began_like_it_is_passed_on() {
        let typed: &[&[u8]] = &[b"a\x10", b"b", b"\x10\x10", b"c"];
        assert_eq!(
            passed(b"\x10\x11", typed),
            (b"a\x10b\x10\x10c".to_vec(), false)
        );
        assert!(passed(b"\x10\x11", &[b"\x10\x10\x11"]).1);
    }

    #[test]
    fn without_keys_everything_is_passed_on() {
        assert_eq!(passed(b"", &[b"\x10\x11"]), (b"\x10\x11".to_vec(), false));
    }
}
