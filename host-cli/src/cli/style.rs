//! Colours: on a terminal only, unless the user says otherwise: by `--color`, by `NO_COLOR`
//! (<https://no-color.org>), `CLICOLOR` and `CLICOLOR_FORCE` (<https://bixense.com/clicolors>).

use std::ffi::OsString;
use std::io::IsTerminal;

use super::args::ColorChoice;

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
    pub(super) fn for_stdout(choice: ColorChoice) -> Self {
        Self::for_stream(choice, &std::io::stdout())
    }

    /// What suits standard error.
    pub(super) fn for_stderr(choice: ColorChoice) -> Self {
        Self::for_stream(choice, &std::io::stderr())
    }

    fn for_stream(choice: ColorChoice, stream: &impl IsTerminal) -> Self {
        let here = |name: &str| std::env::var_os(name);
        Self {
            colours: wants(choice, here, || stream.is_terminal()),
        }
    }

    /// Whether there are colours.
    pub(super) const fn has_colours(self) -> bool {
        self.colours
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

fn wants(
    choice: ColorChoice,
    here: impl Fn(&str) -> Option<OsString>,
    is_terminal: impl Fn() -> bool,
) -> bool {
    let is_set = |name| here(name).is_some_and(|value| !value.is_empty());
    let is_zero = |name| here(name).is_some_and(|value| value == "0");
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto if is_set("NO_COLOR") => false,
        ColorChoice::Auto if is_set("CLICOLOR_FORCE") && !is_zero("CLICOLOR_FORCE") => true,
        ColorChoice::Auto if is_zero("CLICOLOR") => false,
        ColorChoice::Auto => is_terminal() && here("TERM").is_some_and(|term| term != "dumb"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn colours(choice: ColorChoice, variables: &[(&str, &str)], is_terminal: bool) -> bool {
        let here = |name: &str| {
            let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
            Some(OsString::from(value))
        };
        wants(choice, here, || is_terminal)
    }

    #[test]
    fn colours_are_only_added_where_wanted() {
        assert_eq!(Style::PLAIN.good("ready"), "ready");
        assert_eq!(Style { colours: true }.bad("no"), "\x1b[31mno\x1b[0m");
    }

    #[test]
    fn what_is_said_counts_before_what_is_there() {
        use ColorChoice::{Always, Auto, Never};

        let xterm = ("TERM", "xterm");
        assert!(colours(Auto, &[xterm], true));
        assert!(!colours(Auto, &[xterm], false));
        assert!(!colours(Auto, &[("TERM", "dumb")], true));
        assert!(!colours(Auto, &[], true));
        assert!(!colours(Auto, &[xterm, ("NO_COLOR", "1")], true));
        assert!(colours(Auto, &[xterm, ("NO_COLOR", "")], true));
        assert!(!colours(Auto, &[xterm, ("CLICOLOR", "0")], true));
        assert!(colours(Auto, &[("CLICOLOR_FORCE", "1")], false));
        assert!(!colours(Auto, &[("CLICOLOR_FORCE", "0")], false));
        let both = [("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")];
        assert!(!colours(Auto, &both, true));
        assert!(colours(Always, &both, false));
        assert!(!colours(Never, &[xterm, ("CLICOLOR_FORCE", "1")], true));
    }
}
