//! The files that a machine is made from.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::MachineError;
use crate::config::MachineConfig;

/// Kernel and initramfs, open for reading.
#[derive(Debug)]
pub(super) struct BootFiles {
    pub(super) kernel: File,
    pub(super) initramfs: Option<File>,
}

impl BootFiles {
    pub(super) fn open(config: &MachineConfig) -> Result<Self, MachineError> {
        let kernel = open("kernel", &config.kernel)?;
        let initramfs = config
            .initramfs
            .as_deref()
            .map(|path| open("initramfs", path))
            .transpose()?;
        Ok(Self { kernel, initramfs })
    }
}

/// Opens a regular file. Without `O_NONBLOCK` a named pipe would hold the VMM up for ever.
fn open(role: &'static str, path: &Path) -> Result<File, MachineError> {
    let failed = |source| MachineError::OpenFile {
        role,
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        )));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_file_is_named() {
        let error = open("kernel", Path::new("/nonexistent/vmlinux")).unwrap_err();
        assert_eq!(error.to_string(), "opening the kernel /nonexistent/vmlinux");
    }

    #[test]
    fn named_pipe_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        assert!(open("kernel", &path).is_err());
        assert!(open("kernel", folder.path()).is_err());
    }
}
