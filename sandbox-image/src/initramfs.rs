//! The initramfs: the first root of a guest, with the agent as its init and nothing else.
//!
//! Kept as small as it can be, since the kernel copies every byte of it at each start: no libraries,
//! no shell, not compressed (unpacking would cost more than the bytes it saves). Kernels with drivers
//! as modules get those too, in a folder that the agent is told of on the command line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cpio::{Archive, CpioError};

/// The folder of the archive with kernel modules, for the parameter `sovereign.modules`.
pub const MODULES_FOLDER: &str = "/modules";

/// Where the agent mounts things before it changes to its final root. It makes those that are not
/// there, but finding that out takes a failed mount each.
const FOLDERS: &[&str] = &["dev", "proc", "lower", "upper", "sysroot"];

/// An initramfs could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// A kernel module could not be read.
    #[error("cannot read the kernel module {path}", path = path.display())]
    Module {
        /// The module.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file fits no archive.
    #[error(transparent)]
    Archive(#[from] CpioError),
}

/// Makes an initramfs with this agent. `modules` are loaded in their order before anything else.
///
/// # Errors
/// If a module cannot be read, or a file is too large.
pub fn pack(agent: &[u8], modules: &[PathBuf]) -> Result<Vec<u8>, InitramfsError> {
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.folder(folder, 0o755)?;
    }
    // Without it the kernel gives init no standard streams. Linux, devices.txt: 5:1, 1:3.
    archive.character_device("dev/console", 0o600, (5, 1))?;
    archive.character_device("dev/null", 0o666, (1, 3))?;
    archive.file("init", 0o755, agent)?;
    if !modules.is_empty() {
        pack_modules(&mut archive, modules)?;
    }
    Ok(archive.finish())
}

fn pack_modules(archive: &mut Archive, modules: &[PathBuf]) -> Result<(), InitramfsError> {
    let folder = MODULES_FOLDER.trim_start_matches('/');
    archive.folder(folder, 0o755)?;
    let mut order = String::new();
    for path in modules {
        let bytes = fs::read(path).map_err(|source| InitramfsError::Module {
            path: path.clone(),
            source,
        })?;
        let name = path.file_name().unwrap_or(path.as_os_str());
        let name = Path::new(name).display().to_string();
        archive.file(&format!("{folder}/{name}"), 0o644, &bytes)?;
        order.push_str(&name);
        order.push('\n');
    }
    archive.file(&format!("{folder}/order"), 0o644, order.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_agent_makes_the_same_bytes() {
        assert_eq!(pack(b"agent", &[]).unwrap(), pack(b"agent", &[]).unwrap());
        assert_ne!(pack(b"agent", &[]).unwrap(), pack(b"other", &[]).unwrap());
    }

    #[test]
    fn modules_are_listed_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["b.ko", "a.ko"].map(|name| folder.path().join(name));
        for path in &paths {
            fs::write(path, "module").unwrap();
        }
        let bytes = pack(b"agent", &paths).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("b.ko\na.ko\n"));
    }

    #[test]
    fn missing_module_is_named() {
        let error = pack(b"agent", &[PathBuf::from("/nonexistent/x.ko")]).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x.ko"));
    }
}
