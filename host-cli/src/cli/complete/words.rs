//! Words as they are typed at a shell, with quotes and all, and names as a shell reads them.

use std::iter::Peekable;
use std::str::CharIndices;

/// In what quotes a word is still open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quote {
    None,
    Single,
    Double,
}

/// A line that is typed, up to where something is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Typed<'a> {
    /// What its words mean; the last one is that which is asked about, and may be empty.
    pub(super) words: Vec<String>,
    /// That word as it was typed.
    pub(super) raw: &'a str,
    pub(super) quote: Quote,
}

/// What backslashes do in double quotes, and in single ones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    double: &'static str,
    single: &'static str,
}

/// Bash's rules (bash(1), QUOTING).
pub(super) const BASH: Rules = Rules {
    double: "$`\"\\\n",
    single: "",
};
/// Those of fish (fish-doc, "Quotes").
pub(super) const FISH: Rules = Rules {
    double: "$\"\\\n",
    single: "'\\",
};

/// Reads a line as a shell does, which knows only blanks, quotes and backslashes: no variable and no
/// command is looked into.
pub(super) fn read(line: &str, rules: Rules) -> Typed<'_> {
    let mut words = Vec::new();
    let mut word = None;
    let mut start = line.len();
    let mut quote = Quote::None;
    let mut letters = line.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        if quote == Quote::None && letter.is_ascii_whitespace() {
            words.extend(word.take());
            start = line.len();
            continue;
        }
        if word.is_none() {
            start = at;
        }
        let text = word.get_or_insert_with(String::new);
        match (quote, letter) {
            (Quote::None, '\'') => quote = Quote::Single,
            (Quote::None, '"') => quote = Quote::Double,
            (Quote::Single, '\'') | (Quote::Double, '"') => quote = Quote::None,
            (_, '\\') => text.extend(escaped(quote, rules, &mut letters)),
            (_, letter) => text.push(letter),
        }
    }
    words.push(word.unwrap_or_default());
    Typed {
        words,
        raw: line.get(start..).unwrap_or_default(),
        quote,
    }
}

/// What a backslash and what comes behind it mean.
fn escaped(quote: Quote, rules: Rules, letters: &mut Peekable<CharIndices<'_>>) -> Option<char> {
    let takes = |letter: char| match quote {
        Quote::None => true,
        Quote::Single => rules.single.contains(letter),
        Quote::Double => rules.double.contains(letter),
    };
    match letters.next_if(|(_, letter)| takes(*letter)) {
        Some((_, '\n')) => None,
        Some((_, letter)) => Some(letter),
        // Of the last one nobody knows yet what it is for.
        None if quote == Quote::None => None,
        None => Some('\\'),
    }
}

/// A name as Bash has to read it, where these quotes are open.
pub(super) fn for_bash(name: &str, quote: Quote) -> String {
    let mut text = String::with_capacity(name.len());
    for letter in name.chars() {
        match quote {
            Quote::Single if letter == '\'' => text.push_str("'\\'"),
            Quote::Double if BASH.double.contains(letter) => text.push('\\'),
            Quote::None if !is_plain(letter) => text.push('\\'),
            Quote::Single | Quote::Double | Quote::None => {}
        }
        text.push(letter);
    }
    text
}

fn is_plain(letter: char) -> bool {
    letter.is_alphanumeric() || "_./:=@%+,-".contains(letter) || !letter.is_ascii()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn bash(line: &str, words: &[&str], raw: &str, quote: Quote) {
        let typed = read(line, BASH);
        assert_eq!(typed.words, words);
        assert_eq!((typed.raw, typed.quote), (raw, quote));
    }

    #[test]
    fn lines_are_read_as_bash_does() {
        bash("a  b c", &["a", "b", "c"], "c", Quote::None);
        bash("a ", &["a", ""], "", Quote::None);
        bash("", &[""], "", Quote::None);
        bash(r"cp w:a\ b", &["cp", "w:a b"], r"w:a\ b", Quote::None);
        bash(r#"cp w:"a b"#, &["cp", "w:a b"], r#"w:"a b"#, Quote::Double);
        bash(r"cp 'w:a\ b", &["cp", r"w:a\ b"], r"'w:a\ b", Quote::Single);
        bash(r#"x "\a\$" y"#, &["x", r"\a$", "y"], "y", Quote::None);
        bash(r"x a\", &["x", "a"], r"a\", Quote::None);
        bash("x ''", &["x", ""], "''", Quote::None);
        bash("x 'it'\\''s", &["x", "it's"], "'it'\\''s", Quote::Single);
    }

    #[test]
    fn fish_knows_backslashes_in_single_quotes() {
        assert_eq!(read(r"'it\'s \n", FISH).words, [r"it's \n"]);
        assert_eq!(read(r#""a\"b`"#, FISH).words, [r#"a"b`"#]);
        assert_eq!(read(r"a\ b\:c", FISH).words, ["a b:c"]);
    }

    proptest! {
        /// Whatever a name is, Bash reads it as it is.
        #[test]
        fn what_is_written_for_bash_is_read_as_the_name(name in "[^\\x00-\\x1f\\x7f]{1,20}") {
            for (quote, open, close) in
                [(Quote::None, "", ""), (Quote::Single, "'", "'"), (Quote::Double, "\"", "\"")]
            {
                let line = format!("x {open}{}{close}", for_bash(&name, quote));
                let typed = read(&line, BASH);
                prop_assert_eq!(typed.words, ["x".to_owned(), name.clone()]);
                prop_assert_eq!(typed.quote, Quote::None);
            }
        }

        #[test]
        fn no_line_is_too_strange(line in ".{0,40}") {
            prop_assert!(!read(&line, BASH).words.is_empty());
            prop_assert!(!read(&line, FISH).words.is_empty());
        }
    }
}
