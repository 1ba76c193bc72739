//! What sandboxes are called: a name that people give, and an id that nobody else has.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most characters of a name, as of a host name.
const MAX_NAME: usize = 63;

/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 12;

/// A sandbox's name: 1 to 63 letters, digits, `.`, `_` and `-`, of which the first is a letter or
/// digit. It is a file's name, and never an option.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// A sandbox's id: 12 hexadecimal digits, at random.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

/// Of these names, the one that is most like what was typed, if one is.
pub(crate) fn similar<N: AsRef<str>>(typed: &str, names: impl IntoIterator<Item = N>) -> Option<N> {
    let likeness = |name: &N| strsim::jaro_winkler(name.as_ref(), typed);
    let close = names.into_iter().filter(|name| likeness(name) > 0.8);
    close.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

/// What is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name for a sandbox: 1 to {MAX_NAME} letters, digits, '.', '_' and '-', and the \
     first is a letter or digit"
)]
pub struct NameError(String);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name for a sandbox that was given none: one that people can say, and likely to be free.
    #[must_use]
    pub fn invented(id: &Id) -> Self {
        let number = id.number();
        let pick = |words: &[&'static str], part: u64| {
            let count = u64::try_from(words.len()).unwrap_or(1).max(1);
            let place = usize::try_from(part % count).unwrap_or(0);
            words.get(place).copied().unwrap_or("calm")
        };
        let (first, second) = (pick(MANNERS, number >> 24), pick(PLACES, number >> 12));
        Self(format!("{first}-{second}-{:03x}", number & 0xfff))
    }
}

impl Id {
    /// An id of these digits.
    #[cfg(any(target_os = "linux", test))]
    pub(crate) fn of(bytes: [u8; ID_DIGITS / 2]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn number(&self) -> u64 {
        u64::from_str_radix(&self.0, 16).unwrap_or(0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let starts = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        if starts && text.len() <= MAX_NAME && text.bytes().all(good) {
            Ok(Self(text))
        } else {
            Err(NameError(text))
        }
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl FromStr for Id {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for Id {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == ID_DIGITS && text.bytes().all(digit) {
            Ok(Self(text))
        } else {
            Err(NameError(text))
        }
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

const MANNERS: &[&str] = &[
    "bold", "brave", "brief", "bright", "calm", "clear", "clever", "deep", "eager", "early",
    "fair", "fast", "fine", "fresh", "gentle", "glad", "grand", "keen", "kind", "light", "lively",
    "lucid", "neat", "noble", "plain", "prompt", "proud", "quick", "quiet", "rapid", "sharp",
    "steady",
];

const PLACES: &[&str] = &[
    "atoll", "bay", "beach", "brook", "canyon", "cape", "cliff", "cove", "creek", "dale", "delta",
    "dune", "fen", "field", "fjord", "forest", "glen", "grove", "gulf", "harbor", "heath", "hill",
    "island", "lagoon", "lake", "marsh", "meadow", "mesa", "moor", "reef", "ridge", "valley",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "web-1", "a.b_c", "9", &"x".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            ".",
            "..",
            ".a",
            "a/b",
            "a b",
            "ä",
            "a\n",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_are_twelve_digits() {
        let id = Id::of([0, 1, 0x7f, 0x80, 0xfe, 0xff]);
        assert_eq!(id.as_str(), "00017f80feff");
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert!("0123456789aX".parse::<Id>().is_err());
        assert!("../../../../x".parse::<Id>().is_err());
    }

    proptest! {
        #[test]
        fn invented_names_are_names(number in 0_u64..1 << 48) {
            let id = Id(format!("{number:012x}"));
            let name = Name::invented(&id);
            prop_assert_eq!(name.as_str().parse(), Ok(name.clone()));
        }
    }
}
