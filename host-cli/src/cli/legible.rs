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

/// The same of what a console has, which keeps its lines and tabs and needs nothing to end a line but its
/// end.
pub(super) fn console(bytes: &[u8]) -> String {
    let pieces = bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\t' | b'\r'));
    let mut shown = String::with_capacity(bytes.len());
    for piece in pieces {
        match piece.split_last() {
            Some((b'\r', before)) => shown += &self::bytes(before),
            Some((end @ (b'\n' | b'\t'), before)) => {
                shown += &self::bytes(before);
                shown.push(char::from(*end));
            }
            _ => shown += &self::bytes(piece),
        }
    }
    shown
}

/// The same of a line, of which so many characters are shown at the most.
pub(super) fn shortened(text: &str, most: usize) -> String {
    const REST: &str = "...";
    let shown = self::text(text);
    match shown.char_indices().nth(most) {
        None => shown,
        Some(_) => {
            let kept = shown.chars().take(most.saturating_sub(REST.len()));
            kept.chain(REST.chars()).collect()
        }
    }
}

/// A tool's line, without what it has for a terminal.
pub(super) fn plain(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).collect()
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

    #[test]
    fn a_console_cannot_command_a_terminal() {
        let shown = console(b"ok\r\n\x1b[2J\xff\ttab\xc2\x9b");
        assert_eq!(shown, "ok\n\\x1b[2J\\xff\ttab\\xc2\\x9b");
        assert_eq!(console(b""), "");
    }

    #[test]
    fn what_is_long_is_shortened() {
        assert_eq!(shortened(&"ä".repeat(41), 40), "ä".repeat(37) + "...");
        assert_eq!(shortened(&"ä".repeat(40), 40), "ä".repeat(40));
        assert_eq!(shortened("a\nb", 40), "a\\nb");
    }

    #[test]
    fn a_tools_line_loses_what_it_has_for_a_terminal() {
        assert_eq!(plain("\rCC\tmain.o\x07"), "CCmain.o");
    }
}
