//! Colours: on a terminal only, and not if `NO_COLOR` is set (<https://no-color.org>).

use std::io::IsTerminal;

/// Whether text gets colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    colours: bool,
}

impl Style {
    /// Text without colours.
    #[cfg(test)]
    pub(super) const PLAIN: Self = Self { colours: false };

    /// What suits the standard output.
    pub(super) fn for_stdout() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            colours: std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb,
        }
    }

    /// Good news.
    pub(super) fn good(self, text: &str) -> String {
        self.in_colour(text, 32)
    }

    /// Bad news.
    pub(super) fn bad(self, text: &str) -> String {
        self.in_colour(text, 31)
    }

    /// ECMA-48, section 8.3.117 (SGR).
    fn in_colour(self, text: &str, colour: u8) -> String {
        if self.colours {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_only_added_where_wanted() {
        assert_eq!(Style::PLAIN.good("ready"), "ready");
        assert_eq!(Style { colours: true }.bad("no"), "\x1b[31mno\x1b[0m");
    }
}
