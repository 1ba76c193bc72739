//! What tiers lack of this engine's own parts: a program, an image.

use sandbox_image::{Store, StoreError};

use super::facts::Unavailable;
use crate::error::{ErrorKind, chain};
use crate::installation::MissingProgram;

impl From<MissingProgram> for Unavailable {
    fn from(missing: MissingProgram) -> Self {
        Self {
            code: ErrorKind::ProgramMissing,
            cause: missing.to_string(),
            remedy: Some(missing.hint()),
        }
    }
}

/// Of an image that is not there: the name of one that is, and is called nearly so.
pub(crate) fn similar_image(error: &StoreError) -> Option<String> {
    let StoreError::NoSuchImage { name, store } = error else {
        return None;
    };
    let images = Store::open(store).and_then(|store| store.list()).ok()?;
    crate::name::similar(name, images.into_iter().map(|image| image.name))
}

impl From<StoreError> for Unavailable {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::NoSuchImage { .. } => ErrorKind::NoImage,
            _ => ErrorKind::ImageUnusable,
        };
        let cause = chain(&error);
        // The store's errors say in their own text what to do about them.
        Self {
            code,
            cause,
            remedy: similar_image(&error).map(|name| format!("did you mean `{name}`?")),
        }
    }
}
