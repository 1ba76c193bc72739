//! Kernel modules from the initramfs, for kernels whose drivers are not built in.

use std::fs::{self, File};
use std::path::Path;

use rustix::io::Errno;
use rustix::system::finit_module;

use crate::linux::init::InitError;
use crate::linux::reason::reason;

/// Loads the modules that the file `order` in this folder names, one in a line, in that order.
pub(super) fn load(directory: &str) -> Result<(), InitError> {
    let directory = Path::new(directory);
    let order = directory.join("order");
    let names = fs::read_to_string(&order).map_err(|error| failed(&order, error))?;
    for name in names.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let path = directory.join(name);
        let file = File::open(&path).map_err(|error| failed(&path, error))?;
        match finit_module(&file, c"", 0) {
            // Some kernels have built in what others load.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(&path, error.into())),
        }
    }
    Ok(())
}

fn failed(path: &Path, error: std::io::Error) -> InitError {
    InitError::Module {
        name: path.display().to_string(),
        reason: reason(error),
    }
}
