//! Images, as `--json` tells them.

use std::collections::BTreeMap;

use sandbox_image::manifest::{Blob, User, Userland};
use sandbox_image::{Manifest, Summary};
use serde::Serialize;

/// An image of the store.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Listed {
    /// Its name.
    name: String,
    /// Its id: the SHA-256 of its manifest.
    id: Option<String>,
    /// The bytes of all its files together.
    bytes: u64,
    /// What it is made of, if its manifest can be read.
    manifest: Option<ImageTold>,
    /// Why its manifest cannot be read.
    problem: Option<String>,
}

/// What an image is made of.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct ImageTold {
    /// The version of its manifest.
    schema: u32,
    /// When it was built.
    created: String,
    /// The guest kernel.
    kernel: Kernel,
    /// The initramfs, which holds the agent and nothing else.
    initramfs: Initramfs,
    /// The root file system.
    rootfs: Rootfs,
}

/// A file of an image.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct File {
    /// Its SHA-256.
    digest: String,
    /// Its length in bytes.
    size: u64,
}

/// The guest kernel.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Kernel {
    /// The file: an ELF `vmlinux` or a `bzImage`.
    blob: File,
    /// Its release (`uname -r`), where it is known.
    release: Option<String>,
    /// The part of the command line that this kernel wants.
    cmdline: String,
    /// How it learns of its devices: `acpi` or `command-line`.
    discovery: String,
}

/// The initramfs.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Initramfs {
    /// The file: a cpio archive.
    blob: File,
    /// The agent's release.
    agent_release: String,
    /// The version of the protocol that the agent speaks, if it says so.
    agent_protocol: Option<u16>,
}

/// The root file system.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Rootfs {
    /// The file: an EROFS image.
    blob: File,
    /// What is in it; unknown of a file of one's own.
    contents: Option<Contents>,
}

/// What a root file system holds.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Contents {
    /// The distribution and its release.
    system: String,
    /// The point release.
    version: String,
    /// The version of `python3`.
    python: String,
    /// Every package with its version.
    packages: BTreeMap<String, String>,
    /// Who commands run as, unless told otherwise.
    user: Account,
}

/// A user in the root file system.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Account {
    /// The login name.
    name: String,
    /// The user id.
    uid: u32,
    /// The id of the user's own group.
    gid: u32,
    /// The home directory.
    home: String,
}

impl Listed {
    pub(super) fn of(image: &Summary) -> Self {
        Self {
            name: image.name.clone(),
            id: image.id.clone(),
            bytes: image.bytes,
            manifest: image.manifest.as_ref().map(ImageTold::of),
            problem: image.problem.clone(),
        }
    }
}

impl ImageTold {
    pub(super) fn of(manifest: &Manifest) -> Self {
        let Manifest {
            schema,
            created,
            kernel,
            initramfs,
            rootfs,
        } = manifest;
        Self {
            schema: *schema,
            created: created.clone(),
            kernel: Kernel {
                blob: File::of(kernel.blob),
                release: kernel.release.clone(),
                cmdline: kernel.cmdline.clone(),
                discovery: kernel.discovery.to_string(),
            },
            initramfs: Initramfs {
                blob: File::of(initramfs.blob),
                agent_release: initramfs.agent_release.clone(),
                agent_protocol: initramfs.agent_protocol,
            },
            rootfs: Rootfs {
                blob: File::of(rootfs.blob),
                contents: rootfs.contents.as_ref().map(Contents::of),
            },
        }
    }
}

impl File {
    fn of(blob: Blob) -> Self {
        Self {
            digest: blob.digest.to_string(),
            size: blob.size,
        }
    }
}

impl Contents {
    fn of(contents: &Userland) -> Self {
        let User {
            name,
            uid,
            gid,
            home,
        } = &contents.user;
        Self {
            system: contents.system.clone(),
            version: contents.version.clone(),
            python: contents.python.clone(),
            packages: contents.packages.clone(),
            user: Account {
                name: name.clone(),
                uid: *uid,
                gid: *gid,
                home: home.clone(),
            },
        }
    }
}
