//! What an image is made of: the JSON document that its name stands for.
//!
//! A manifest lists the image's files by digest and says what is in them, so that nobody has to
//! open a root file system to learn which Python it has. Its own SHA-256 is the image's identity.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The version of this document. A reader refuses others, so it changes with every change of meaning.
pub const SCHEMA: u32 = 1;

/// The description of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it was built (RFC 3339, UTC).
    pub created: String,
    /// The guest kernel.
    pub kernel: Kernel,
    /// The initramfs.
    pub initramfs: Initramfs,
    /// The root file system.
    pub rootfs: Rootfs,
}

/// A file of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// Its SHA-256.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// The guest kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// The file: an ELF `vmlinux` or a `bzImage`.
    pub blob: Blob,
    /// Its release (`uname -r`), where it is known.
    pub release: Option<String>,
    /// The part of the command line that this kernel wants.
    pub cmdline: String,
    /// How it learns of its devices.
    pub discovery: Discovery,
}

/// How a kernel learns of its virtio-mmio devices (`vmm::config::DeviceDiscovery`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Discovery {
    /// From ACPI tables.
    Acpi,
    /// From its command line.
    CommandLine,
}

impl fmt::Display for Discovery {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Acpi => "acpi",
            Self::CommandLine => "command-line",
        })
    }
}

/// The initramfs, which holds the agent and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Initramfs {
    /// The file: a cpio archive, format newc.
    pub blob: Blob,
    /// The agent's release.
    pub agent_release: String,
    /// The version of the protocol that the agent speaks, if it says so.
    pub agent_protocol: Option<u16>,
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rootfs {
    /// The file: an EROFS image.
    pub blob: Blob,
    /// What is in it. Unknown for a file that the user brought.
    pub contents: Option<Userland>,
}

/// What a root file system holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Userland {
    /// The distribution and its release: `Debian GNU/Linux 12 (bookworm)`.
    pub system: String,
    /// The point release, as in `/etc/debian_version`.
    pub version: String,
    /// The version of `python3`.
    pub python: String,
    /// Every package with its version.
    pub packages: BTreeMap<String, String>,
    /// Who commands run as, unless told otherwise.
    pub user: User,
}

/// A user in the root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The user id.
    pub uid: u32,
    /// The id of the user's own group.
    pub gid: u32,
    /// The home directory.
    pub home: String,
}

/// A document that is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not the JSON that was expected.
    #[error("not a manifest")]
    Syntax(#[source] serde_json::Error),
    /// Of another version.
    #[error("manifest of schema {found}, this release reads schema {SCHEMA}")]
    Schema {
        /// The version it says.
        found: u32,
    },
}

impl Manifest {
    /// Parses a manifest.
    ///
    /// # Errors
    /// If it is none, or one of another schema.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        /// The one field that every schema has.
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let version: Version = serde_json::from_slice(bytes).map_err(ManifestError::Syntax)?;
        if version.schema != SCHEMA {
            return Err(ManifestError::Schema {
                found: version.schema,
            });
        }
        serde_json::from_slice(bytes).map_err(ManifestError::Syntax)
    }

    /// The document, as it is stored.
    ///
    /// # Panics
    /// Never: a manifest has only string keys and finite numbers.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        assert!(
            !json.is_empty(),
            "a manifest is plain data and always has a JSON form"
        );
        json.push(b'\n');
        json
    }

    /// The image's files, in the order kernel, initramfs, root file system.
    #[must_use]
    pub fn blobs(&self) -> [Blob; 3] {
        [self.kernel.blob, self.initramfs.blob, self.rootfs.blob]
    }
}

/// A moment as a manifest writes it.
#[must_use]
pub fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_manifest() -> impl Strategy<Value = Manifest> {
        let blob = || {
            (any::<[u8; 8]>(), any::<u64>()).prop_map(|(seed, size)| Blob {
                digest: Digest::of(&seed),
                size,
            })
        };
        let contents = (
            ".*",
            ".*",
            prop::collection::btree_map(".*", ".*", 0..4),
            any::<(u32, u32)>(),
        )
            .prop_map(|(system, python, packages, (uid, gid))| Userland {
                version: system.clone(),
                system,
                python,
                packages,
                user: User {
                    name: "sandbox".to_owned(),
                    uid,
                    gid,
                    home: "/home/sandbox".to_owned(),
                },
            });
        let discovery = prop_oneof![Just(Discovery::Acpi), Just(Discovery::CommandLine)];
        (
            (blob(), blob(), blob()),
            (".*", ".*", any::<Option<u16>>()),
            prop::option::of(".*"),
            discovery,
            prop::option::of(contents),
        )
            .prop_map(
                |(blobs, (created, cmdline, agent_protocol), release, discovery, contents)| {
                    Manifest {
                        schema: SCHEMA,
                        created,
                        kernel: Kernel {
                            blob: blobs.0,
                            release,
                            cmdline,
                            discovery,
                        },
                        initramfs: Initramfs {
                            blob: blobs.1,
                            agent_release: "0.1.0".to_owned(),
                            agent_protocol,
                        },
                        rootfs: Rootfs {
                            blob: blobs.2,
                            contents,
                        },
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn manifest_round_trips(manifest in any_manifest()) {
            prop_assert_eq!(Manifest::parse(&manifest.to_json()).unwrap(), manifest);
        }

        #[test]
        fn cut_manifest_is_refused(manifest in any_manifest(), cut: prop::sample::Index) {
            let json = manifest.to_json();
            // The last two bytes are the closing brace and the end of the line.
            let kept = cut.index(json.len() - 2);
            prop_assert!(Manifest::parse(&json[..kept]).is_err());
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            let _ = Manifest::parse(&bytes);
        }
    }

    #[test]
    fn later_schema_is_refused_by_number() {
        let error = Manifest::parse(br#"{"schema": 2, "novelty": true}"#).unwrap_err();
        assert!(matches!(error, ManifestError::Schema { found: 2 }));
    }

    #[test]
    fn timestamp_is_rfc_3339() {
        assert_eq!(timestamp(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00Z");
    }
}
