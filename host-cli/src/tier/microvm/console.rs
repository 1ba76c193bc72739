//! Reading a guest's last words: what its kernel printed before it died.

/// How many of the newest lines are worth showing.
const LINES: usize = 12;

/// What the guest's kernel says about its panic, if it had one.
pub(super) fn panic_message(console: &str) -> Option<&str> {
    const SIGN: &str = "Kernel panic - not syncing: ";
    let (_, rest) = console.rsplit_once(SIGN)?;
    let line = rest.lines().next().unwrap_or_default().trim();
    Some(line.trim_end_matches("]---").trim_end_matches(['-', ' ']))
}

/// The newest lines, without control characters: they come from the guest and go to a terminal.
pub(super) fn last_lines(console: &str) -> Vec<String> {
    let lines: Vec<_> = console
        .lines()
        .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>())
        .filter(|line| !line.trim().is_empty())
        .collect();
    let skipped = lines.len().saturating_sub(LINES);
    lines.into_iter().skip(skipped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_recognised_with_its_reason() {
        let console = "[    0.5] VFS: cannot open\r\n\
            [    0.6] Kernel panic - not syncing: No working init found.  Try passing init=\r\n\
            [    0.7] CPU: 0\r\n\
            [    0.8] ---[ end Kernel panic - not syncing: No working init found. ]---\r\n";
        assert_eq!(panic_message(console), Some("No working init found."));
        assert_eq!(panic_message("all is well\n"), None);
    }

    #[test]
    fn the_newest_lines_are_kept_without_escapes() {
        let mut console = String::new();
        for number in 0..30 {
            console.push_str(&format!("\x1b[31mline {number}\r\n\n"));
        }
        let lines = last_lines(&console);
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines.last().map(String::as_str), Some("[31mline 29"));
    }
}
