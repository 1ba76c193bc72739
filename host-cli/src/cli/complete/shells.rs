//! How shells ask, and how they want to be answered.
//!
//! Bash parts words at colons, and so what is in a sandbox from its name: it says the whole line, and
//! gets what stands in the place of the last part. Zsh and fish get whole words. In all three a folder
//! has a slash behind it and no blank, and names are quoted as the shell needs it: in Bash by us.
//!
//! Whoever still has the script of another release, or another shell, is answered by the library.

use std::env;
use std::ffi::OsString;

use clap_complete::engine::CompletionCandidate;

use super::words::{self, Quote};

/// The variables by which Bash's script says what is typed: the line up to the cursor, and the part
/// that is to be replaced.
const LINE: &str = "SOVEREIGN_COMPLETE_LINE";
const PART: &str = "SOVEREIGN_COMPLETE_PART";
/// One that only the library's scripts set.
const LIBRARY: &str = "_CLAP_COMPLETE_INDEX";

const BASH: &str = r#"_sovereign() {
    local candidate
    COMPREPLY=()
    while IFS= read -r candidate; do
        COMPREPLY+=("$candidate")
    done < <(SOVEREIGN_COMPLETE=bash SOVEREIGN_COMPLETE_LINE="${COMP_LINE:0:COMP_POINT}" \
        SOVEREIGN_COMPLETE_PART="$2" sovereign 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/:] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -o bashdefault -o nosort -F _sovereign sovereign 2>/dev/null ||
    complete -o bashdefault -F _sovereign sovereign
"#;

const ZSH: &str = r#"#compdef sovereign
function _sovereign() {
    local -a lines open whole
    local line name about
    lines=("${(@f)$(SOVEREIGN_COMPLETE=zsh sovereign -- \
        "${(@Q)words[1,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    for line in $lines; do
        name=${line%%$'\t'*}
        about=
        [[ $line == *$'\t'* ]] && about=:${line#*$'\t'}
        name=${name//\\/\\\\}
        if [[ $name == *[=/:] ]]; then
            open+=("${name//:/\\:}$about")
        else
            whole+=("${name//:/\\:}$about")
        fi
    done
    [[ -n $open ]] && _describe -V 'values' open -S ''
    [[ -n $whole ]] && _describe -V 'values' whole
}
compdef _sovereign sovereign
"#;

const FISH: &str = r#"complete --keep-order --exclusive --command sovereign --arguments "(SOVEREIGN_COMPLETE=fish sovereign -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token --cut-at-cursor))"
"#;

/// The script of a shell for which there is one of ours.
pub(super) fn script(shell: &str) -> Option<&'static str> {
    match shell {
        "bash" => Some(BASH),
        "zsh" => Some(ZSH),
        "fish" => Some(FISH),
        _ => None,
    }
}

/// What a shell asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The words up to the one that is asked about, and that one.
    pub(super) words: Vec<OsString>,
    answer: Answer,
}

/// How a shell wants to be answered.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// What stands in the place of the part behind this, in these quotes.
    Part { before: String, quote: Quote },
    /// Names, each with what is to be said of it behind a tabulator.
    Names,
}

impl Asked {
    /// What this shell asks with these arguments, if it asks by a script of ours.
    pub(super) fn by(shell: &str, args: &[OsString]) -> Option<Self> {
        let set = |name: &str| env::var(name).ok();
        match shell {
            "bash" => Some(Self::by_bash(&set(LINE)?, &set(PART)?)),
            "zsh" if env::var_os(LIBRARY).is_none() => Some(Self {
                words: words_of(args),
                answer: Answer::Names,
            }),
            "fish" => Some(Self::by_fish(words_of(args))),
            _ => None,
        }
    }

    fn by_bash(line: &str, part: &str) -> Self {
        let typed = words::read(line, words::BASH);
        // Of a part that is none nothing can be replaced.
        let before = typed.raw.strip_suffix(part).unwrap_or(typed.raw);
        let before = words::read(before, words::BASH).words.pop();
        let is_command = |word: &&String| !is_assignment(word);
        let words = typed.words.iter().skip_while(|word| !is_command(word));
        Self {
            words: words.map(OsString::from).collect(),
            answer: Answer::Part {
                before: before.unwrap_or_default(),
                quote: typed.quote,
            },
        }
    }

    /// Fish has undone the quotes of all words but the last.
    fn by_fish(mut words: Vec<OsString>) -> Self {
        if let Some(last) = words.last_mut()
            && let Some(text) = last.to_str()
        {
            let read = words::read(text, words::FISH).words;
            *last = OsString::from(read.join(" "));
        }
        Self {
            words,
            answer: Answer::Names,
        }
    }

    /// The answer. What has control characters in it is left out: no shell's script could tell it from
    /// two, and it would be a command for the terminal.
    pub(super) fn tell(&self, candidates: &[CompletionCandidate]) -> String {
        let lines = candidates.iter().filter_map(|candidate| {
            let name = candidate.get_value().to_str()?;
            if name.contains(char::is_control) {
                return None;
            }
            match &self.answer {
                Answer::Part { before, quote } => {
                    Some(words::for_bash(name.strip_prefix(before.as_str())?, *quote))
                }
                Answer::Names => {
                    let about = candidate.get_help().map(ToString::to_string);
                    let about = about.as_deref().and_then(|about| about.lines().next());
                    Some(match about {
                        Some(about) => format!("{name}\t{about}"),
                        None => name.to_owned(),
                    })
                }
            }
        });
        lines.map(|line| line + "\n").collect()
    }
}

fn words_of(args: &[OsString]) -> Vec<OsString> {
    let words = args.iter().skip(1).skip_while(|word| *word != "--").skip(1);
    words.cloned().collect()
}

/// Whether a word sets a variable for the command behind it.
fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        !name.is_empty() && name.chars().all(is_letter)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(asked: &Asked, names: &[&str]) -> Vec<String> {
        let candidates: Vec<_> = names.iter().map(CompletionCandidate::new).collect();
        let text = asked.tell(&candidates);
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn bash_gets_the_part_that_it_replaces() {
        let asked = Asked::by_bash("A=1 sovereign cp web:di", "di");
        assert_eq!(asked.words, ["sovereign", "cp", "web:di"]);
        let names = [
            "web:dir/",
            "web:di it's",
            "web:di:x",
            "other",
            "web:di\u{1b}c",
        ];
        assert_eq!(answers(&asked, &names), ["dir/", r"di\ it\'s", "di:x"]);
        let asked = Asked::by_bash("sovereign cp web:", "");
        assert_eq!(answers(&asked, &["web:a b"]), [r"a\ b"]);
        let asked = Asked::by_bash("sovereign cp 'web:a b", "web:a b");
        assert_eq!(answers(&asked, &["web:a b's"]), [r"web:a b'\''s"]);
        let asked = Asked::by_bash(r#"sovereign cp web:"a $"#, "a $");
        assert_eq!(asked.words, ["sovereign", "cp", "web:a $"]);
        assert_eq!(answers(&asked, &["web:a $1"]), [r"a \$1"]);
        let asked = Asked::by_bash("sovereign ", "");
        assert_eq!(asked.words, ["sovereign", ""]);
    }

    #[test]
    fn fish_gets_names_for_what_its_word_means() {
        let words = ["sovereign", "cp", r"web:a\ b"].map(OsString::from);
        let asked = Asked::by_fish(words.into());
        assert_eq!(asked.words, ["sovereign", "cp", "web:a b"]);
        assert_eq!(answers(&asked, &["web:a b", "a\tb", "a\nb"]), ["web:a b"]);
    }
}
