//! The mirrors of the machine that builds, so that no mirror is named in this project.
//!
//! Debian hosts have their mirrors, and the proxies to reach them, in apt's configuration. The
//! entries for Debian itself are taken over; third-party repositories are not. Elsewhere the
//! defaults of mmdebstrap hold.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::tool;

/// apt's folder and its oldest file.
const SOURCES_FOLDER: &str = "/etc/apt/sources.list.d";
const SOURCES_FILE: &str = "/etc/apt/sources.list";

/// How a key of the distribution is called, in `Signed-By`.
const KEYRING: &str = "debian-archive-";

/// The suites that make up a release: itself, its updates and its security fixes.
const SUITE_ENDS: &[&str] = &["", "-updates", "-security", "/updates"];

/// The component with everything a sandbox has.
const COMPONENT: &str = "main";

/// The oldest release with Python 3.11, which is what other hosts get.
pub(crate) const OLDEST_RELEASE: (u32, &str) = (12, "bookworm");

/// How long `apt-config` may take.
const QUERY_LIMIT: Duration = Duration::from_secs(30);

/// What a root file system is made of, and where that comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archive {
    /// The code name of the release.
    pub(crate) suite: String,
    /// Entries for it in apt's deb822 format. Empty: what mmdebstrap takes by itself.
    pub(crate) sources: String,
}

impl Archive {
    /// What this host says.
    pub(crate) fn of_host() -> Self {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let Some(suite) = debian_suite(&release) else {
            return Self {
                suite: OLDEST_RELEASE.1.to_owned(),
                sources: String::new(),
            };
        };
        let mut sources = String::new();
        for path in source_files() {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let deb822 = path.extension().is_some_and(|end| end == "sources");
            sources.push_str(&select(&text, deb822, &suite));
        }
        Self { suite, sources }
    }
}

/// The code name of a Debian host's release, if that is new enough.
fn debian_suite(os_release: &str) -> Option<String> {
    let field = |name| {
        os_release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
    };
    // Testing and unstable have no number.
    let recent = field("VERSION_ID").is_none_or(|version| {
        version
            .parse::<u32>()
            .is_ok_and(|number| number >= OLDEST_RELEASE.0)
    });
    if field("ID")? != "debian" || !recent {
        return None;
    }
    field("VERSION_CODENAME")
}

fn source_files() -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(SOURCES_FOLDER)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let end = path.extension().unwrap_or_default();
            end == "list" || end == "sources"
        })
        .collect();
    files.push(Path::new(SOURCES_FILE).to_owned());
    files.sort();
    files
}

/// The entries of a file that belong to Debian's own `suite`, in deb822 format.
fn select(text: &str, deb822: bool, suite: &str) -> String {
    let entries: Vec<_> = if deb822 {
        text.split("\n\n").filter_map(Entry::from_stanza).collect()
    } else {
        text.lines().filter_map(Entry::from_line).collect()
    };
    entries
        .into_iter()
        .filter_map(|entry| entry.narrowed(suite))
        .map(|entry| entry.to_stanza())
        .collect()
}

/// An entry of apt's sources (sources.list(5)).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
}

impl Entry {
    /// Reads a stanza of deb822 format.
    fn from_stanza(stanza: &str) -> Option<Self> {
        let mut entry = Self::default();
        let mut binary = false;
        let mut enabled = true;
        let mut field = String::new();
        for line in stanza.lines().filter(|line| !line.starts_with('#')) {
            let value = match line.split_once(':') {
                Some((name, value)) if !line.starts_with([' ', '\t']) => {
                    field = name.trim().to_ascii_lowercase();
                    value
                }
                _ => line,
            };
            let words = || value.split_whitespace().map(str::to_owned);
            match field.as_str() {
                "types" => binary |= words().any(|word| word == "deb"),
                "uris" => entry.uris.extend(words()),
                "suites" => entry.suites.extend(words()),
                "components" => entry.components.extend(words()),
                "enabled" => enabled = value.trim() != "no",
                // A key in the file itself goes on over many lines.
                "signed-by" => match &mut entry.signed_by {
                    None => entry.signed_by = Some(value.trim().to_owned()),
                    Some(key) => {
                        key.push('\n');
                        key.push_str(value);
                    }
                },
                _ => {}
            }
        }
        (binary && enabled).then_some(entry)
    }

    /// Reads a line of the one-line format: `deb [options] uri suite component...`.
    fn from_line(line: &str) -> Option<Self> {
        let rest = line.trim().strip_prefix("deb")?;
        let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest
            .split_whitespace()
            .take_while(|word| !word.starts_with('#'))
            .map(str::to_owned);
        let signed_by = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="));
        Some(Self {
            uris: vec![words.next()?],
            suites: vec![words.next()?],
            components: words.collect(),
            signed_by: signed_by.map(str::to_owned),
        })
    }

    /// The part of this entry that is Debian's own `release`, if there is one.
    fn narrowed(mut self, release: &str) -> Option<Self> {
        let wanted = |suite: &String| {
            let end = suite.strip_prefix(release);
            end.is_some_and(|end| SUITE_ENDS.contains(&end))
        };
        self.suites.retain(wanted);
        let ours = self
            .signed_by
            .as_ref()
            .is_none_or(|key| key.contains(KEYRING) || key.contains("BEGIN PGP"));
        let main = self.components.iter().any(|name| name == COMPONENT);
        self.components = vec![COMPONENT.to_owned()];
        (ours && main && !self.suites.is_empty() && !self.uris.is_empty()).then_some(self)
    }

    fn to_stanza(&self) -> String {
        let signed_by = match &self.signed_by {
            Some(key) => format!("Signed-By: {key}\n"),
            None => String::new(),
        };
        format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\n{signed_by}\n",
            self.uris.join(" "),
            self.suites.join(" "),
            self.components.join(" "),
        )
    }
}

/// The host's proxies for apt, as lines of its configuration.
pub(crate) fn proxies() -> Vec<String> {
    let mut query = Command::new("apt-config");
    query.args(["dump", "--format", "%F \"%v\";%n", "Acquire"]);
    let text = tool::output(&query, QUERY_LIMIT).unwrap_or_default();
    text.lines()
        .filter(|line| line.to_ascii_lowercase().contains("proxy"))
        .filter(|line| !line.contains("\"\""))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn deb822_entry_is_narrowed_to_its_release() {
        let text = "\
# A comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main
";
        assert_eq!(
            select(text, true, "bookworm"),
            "\
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main

"
        );
    }

    #[test]
    fn one_line_entries_are_understood() {
        let text = "\
# deb http://mirror.example/off bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://a.example/d bookworm main # x
deb-src http://a.example/d bookworm main
deb http://b.example/d bookworm-security main contrib
";
        let stanzas = select(text, false, "bookworm");
        assert!(stanzas.contains("URIs: http://a.example/d\nSuites: bookworm\n"));
        assert!(stanzas.contains("URIs: http://b.example/d\nSuites: bookworm-security\n"));
        assert!(!stanzas.contains("off"));
        assert_eq!(stanzas.matches("Types: deb\n").count(), 2);
    }

    #[test]
    fn other_repositories_are_left_out() {
        for line in [
            "deb http://vendor.example/apt bookworm-pgdg main",
            "deb http://vendor.example/apt bookworm stable",
            "deb http://vendor.example/apt nodistro main",
            "deb [signed-by=/usr/share/keyrings/vendor.gpg] http://vendor.example/apt bookworm main",
            "deb http://mirror.example/debian trixie main",
            "deb http://mirror.example/debian",
            "deb [broken http://mirror.example/debian bookworm main",
        ] {
            assert_eq!(select(line, false, "bookworm"), "", "{line}");
        }
    }

    #[test]
    fn disabled_entry_is_left_out() {
        let text =
            "Enabled: no\nTypes: deb\nURIs: http://a.example\nSuites: bookworm\nComponents: main";
        assert_eq!(select(text, true, "bookworm"), "");
    }

    #[test]
    fn embedded_key_is_kept_whole() {
        let text = "\
Types: deb
URIs: http://a.example
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc=
 -----END PGP PUBLIC KEY BLOCK-----
";
        let stanza = select(text, true, "bookworm");
        assert!(stanza.contains("Signed-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc=\n"));
    }

    #[test]
    fn suite_of_the_host_is_taken_if_it_is_new_enough() {
        let release = |id, version, codename| {
            format!(
                "PRETTY_NAME=\"x\"\nID={id}\nVERSION_ID=\"{version}\"\nVERSION_CODENAME={codename}\n"
            )
        };
        let suite = |text: String| debian_suite(&text);
        assert_eq!(
            suite(release("debian", "13", "trixie")),
            Some("trixie".to_owned())
        );
        assert_eq!(suite(release("debian", "11", "bullseye")), None);
        assert_eq!(suite(release("ubuntu", "24.04", "noble")), None);
        let testing = "ID=debian\nVERSION_CODENAME=forky\n".to_owned();
        assert_eq!(suite(testing), Some("forky".to_owned()));
        assert_eq!(suite(String::new()), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text: String, deb822: bool) {
            let _ = select(&text, deb822, "bookworm");
        }

        #[test]
        fn stanza_round_trips(
            uri in "[a-z:/.]{1,20}",
            ends in prop::collection::vec(prop::sample::select(SUITE_ENDS), 1..4),
        ) {
            let entry = Entry {
                uris: vec![uri],
                suites: ends.iter().map(|end| format!("bookworm{end}")).collect(),
                components: vec!["main".to_owned()],
                signed_by: None,
            };
            prop_assert_eq!(Entry::from_stanza(&entry.to_stanza()), Some(entry));
        }
    }
}
