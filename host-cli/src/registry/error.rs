//! How the registry can fail its user.

use std::io;
use std::path::{Path, PathBuf};

use super::{Id, Name};
use crate::error::{ErrorKind, Problem};

/// Something about a sandbox that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no folder to keep it in.
    #[error(
        "no place for what is known of sandboxes: set SOVEREIGN_STATE_DIR, XDG_STATE_HOME or HOME"
    )]
    NoPlace,
    /// There is no such sandbox.
    #[error("there is no sandbox {wanted:?}{}", did_you_mean(similar.as_deref()))]
    NoSuchSandbox {
        /// What was asked for.
        wanted: String,
        /// A name like it.
        similar: Option<String>,
    },
    /// There are several.
    #[error(
        "{count} sandboxes have an id that begins with {wanted:?}: say more of it, or the name"
    )]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// How many.
        count: usize,
    },
    /// Another one has the name.
    #[error(
        "the name \"{name}\" is that of sandbox {owner}: take another, or remove that one first"
    )]
    NameTaken {
        /// The name.
        name: Name,
        /// Who has it.
        owner: Id,
    },
    /// A name that could be another's id.
    #[error(
        "the name \"{name}\" has the form of an id, 12 hexadecimal digits: take one that cannot be \
         another sandbox's"
    )]
    NameLikeId {
        /// The name.
        name: Name,
    },
    /// A supervisor holds it.
    #[error("sandbox {id} is running, or is just being started or removed")]
    Busy {
        /// The sandbox.
        id: Id,
    },
    /// Its record is of another release, or was damaged.
    #[error(
        "the record of sandbox {id} cannot be read ({reason}); `sovereign rm -f {id}` removes it"
    )]
    Damaged {
        /// The sandbox.
        id: Id,
        /// What is wrong.
        reason: String,
    },
    /// A file of the registry cannot be used.
    #[error("cannot {action} {path}", path = path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl RegistryError {
    /// What kind of error it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NoPlace => ErrorKind::NoStateFolder,
            Self::NoSuchSandbox { .. } => ErrorKind::NoSuchSandbox,
            Self::Ambiguous { .. } => ErrorKind::AmbiguousSandbox,
            Self::NameTaken { .. } => ErrorKind::NameTaken,
            Self::NameLikeId { .. } => ErrorKind::Usage,
            Self::Busy { .. } => ErrorKind::SandboxBusy,
            Self::Damaged { .. } => ErrorKind::RecordDamaged,
            Self::Io { .. } => ErrorKind::System,
        }
    }

    /// The same as every other problem.
    #[must_use]
    pub fn problem(&self) -> Problem {
        Problem::of_keeping(self.kind(), self, "SOVEREIGN_STATE_DIR")
    }
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RegistryError {
    let path = path.to_owned();
    move |source| RegistryError::Io {
        action,
        path,
        source,
    }
}

fn did_you_mean(similar: Option<&str>) -> String {
    similar.map_or_else(
        || "; `sovereign ls -a` lists them".to_owned(),
        |similar| format!("; did you mean {similar:?}?"),
    )
}
