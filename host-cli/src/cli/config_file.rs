//! The user's own defaults: `$XDG_CONFIG_HOME/sovereign/config.toml`, if there is one.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, de};

use super::args::values::TierWish;
use crate::tier::Isolation;

/// What the file says.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigFile {
    /// Consent to run on the host itself.
    #[serde(default)]
    pub(super) allow_local: bool,
    /// The tier to take.
    #[serde(default, deserialize_with = "by_name")]
    pub(super) tier: Option<TierWish>,
    /// The floor; the command line can raise it, and nothing lowers it.
    #[serde(default, deserialize_with = "by_name")]
    pub(super) min_isolation: Option<Isolation>,
    /// The image to run from.
    #[serde(default)]
    pub(super) image: Option<String>,
}

/// A file that is there and cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    /// It cannot be read.
    #[error("configuration file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It does not say what it should.
    #[error(
        "configuration file {}: {message} (it may set allow_local, tier, min_isolation, image)",
        path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

impl ConfigFile {
    /// Reads the user's file; without one, nothing is said.
    ///
    /// # Errors
    ///
    /// If it is there and cannot be used.
    pub(super) fn load() -> Result<Self, ConfigError> {
        match place(|name| std::env::var_os(name)) {
            Some(path) => Self::read(path),
            None => Ok(Self::default()),
        }
    }

    fn read(path: PathBuf) -> Result<Self, ConfigError> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(Self::default());
            }
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        };
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(0, |span| {
                text.bytes()
                    .take(span.start)
                    .filter(|byte| *byte == b'\n')
                    .count()
                    + 1
            });
            let message = format!("line {line}: {}", error.message());
            ConfigError::Invalid { path, message }
        })
    }
}

fn place(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let folder = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(folder.join("sovereign/config.toml"))
}

fn by_name<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let name = String::deserialize(deserializer)?;
    name.parse().map(Some).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::Tier;

    fn read(text: &str) -> Result<ConfigFile, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        ConfigFile::read(file.path().to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_key_is_read() {
        let text = "allow_local = true\ntier = \"docker\"\nmin_isolation = \"container\"\n\
            image = \"mine\"\n";
        let expected = ConfigFile {
            allow_local: true,
            tier: Some(TierWish::Named(Tier::Docker)),
            min_isolation: Some(Isolation::Container),
            image: Some("mine".to_owned()),
        };
        assert_eq!(read(text), Ok(expected));
        assert_eq!(read(""), Ok(ConfigFile::default()));
    }

    #[test]
    fn unknown_keys_and_bad_values_are_named() {
        let error = read("image = \"x\"\nalow_local = true\n").unwrap_err();
        assert!(
            error.contains("alow_local") && error.contains("line 2"),
            "{error}"
        );
        let error = read("tier = \"vm\"\n").unwrap_err();
        assert!(
            error.contains("\"vm\"") && error.contains("microvm"),
            "{error}"
        );
        assert!(read("allow_local = 1\n").is_err());
    }

    #[test]
    fn no_file_says_nothing() {
        let missing = PathBuf::from("/nowhere/sovereign/config.toml");
        assert_eq!(ConfigFile::read(missing).unwrap(), ConfigFile::default());
    }

    #[test]
    fn the_place_follows_the_xdg_rules() {
        let with = |pairs: &'static [(&'static str, &'static str)]| {
            place(move |name| {
                pairs
                    .iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| OsString::from(value))
            })
        };
        let at = |path: &str| Some(PathBuf::from(path));
        assert_eq!(
            with(&[("XDG_CONFIG_HOME", "/c"), ("HOME", "/h")]),
            at("/c/sovereign/config.toml")
        );
        assert_eq!(
            with(&[("XDG_CONFIG_HOME", ""), ("HOME", "/h")]),
            at("/h/.config/sovereign/config.toml")
        );
        assert_eq!(with(&[]), None);
    }
}
