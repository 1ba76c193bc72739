//! What others have written, made fit for people to read.
//!
//! A sandbox may call a file anything, and put anything into a message. On a terminal, what would command it
//! is shown as what it is, as ls(1) does. Where no person reads, data stays as it is.

use std::ascii;

/// Text in one line, in which control characters are told: `\n`, `\x1b`.
pub(super) fn text(text: &str) -> String {
    bytes(text.as_bytes())
}

/// The same of bytes, of which some may be no text: `\xff`.
pub(super) fn bytes(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c.is_control() {
                true => tell(c.encode_utf8(&mut [0; 4]).as_bytes(), &mut shown),
                false => shown.push(c),
            }
        }
        tell(chunk.invalid(), &mut shown);
    }
    shown
}

/// The same of lines, which stay lines.
pub(super) fn lines(text: &str) -> String {
    let shown = text.split('\n').map(self::text);
    shown.collect::<Vec<_>>().join("\n")
}

fn tell(bytes: &[u8], shown: &mut String) {
    let told = bytes.iter().copied().flat_map(ascii::escape_default);
    shown.extend(told.map(char::from));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_command_a_terminal_is_told() {
        assert_eq!(
            text("\x1b[31mred\nnew\r\u{9b}K"),
            "\\x1b[31mred\\nnew\\r\\xc2\\x9bK"
        );
        assert_eq!(bytes(b"\xffx\x7f"), "\\xffx\\x7f");
        assert_eq!(text("Größe \\ 'a b'"), "Größe \\ 'a b'");
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(lines("a\x07\nb\n"), "a\\x07\nb\n");
    }
}
