//! The socket by which clients come to a supervisor.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};

use crate::registry::Entry;

/// How many clients may wait at the door.
const BACKLOG: i32 = 128;

/// How often one is looked for while there are no descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// The supervisor's end.
#[derive(Debug)]
pub(super) struct Door {
    socket: OwnedFd,
}

impl Door {
    /// Opens the door of a sandbox. Only its user gets to it: the folder is closed to others.
    pub(super) fn open(entry: &Entry) -> io::Result<Self> {
        let path = entry.door_path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let socket = new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        with_short_path(&path, |address| Ok(bind(&socket, address)?))?;
        listen(&socket, BACKLOG)?;
        Ok(Self { socket })
    }

    /// The next client, if one waits and there are descriptors for it.
    pub(super) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        match accept_with(&self.socket, SocketFlags::CLOEXEC) {
            Ok(client) => Ok(Some(client)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED) => Ok(None),
            // It waits on until somebody else has gone; it is looked for again at once, and so not too often.
            Err(
                rustix::io::Errno::MFILE
                | rustix::io::Errno::NFILE
                | rustix::io::Errno::NOBUFS
                | rustix::io::Errno::NOMEM,
            ) => {
                thread::sleep(PAUSE);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Comes to the door of a sandbox.
///
/// # Errors
///
/// `NotFound` or `ConnectionRefused` if nobody is there.
pub(crate) fn knock(entry: &Entry) -> io::Result<OwnedFd> {
    let socket = new_socket(SocketFlags::CLOEXEC)?;
    with_short_path(&entry.door_path(), |address| Ok(connect(&socket, address)?))?;
    Ok(socket)
}

fn new_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// An address has room for 107 bytes (unix(7)), and a folder's path may be longer; through a
/// descriptor of the folder it is short.
fn with_short_path<T>(
    path: &Path,
    act: impl FnOnce(&SocketAddrUnix) -> io::Result<T>,
) -> io::Result<T> {
    let missing = || io::Error::from(ErrorKind::InvalidInput);
    let folder: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(path.parent().ok_or_else(missing)?)?;
    let name = path.file_name().ok_or_else(missing)?;
    let short = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(name);
    act(&SocketAddrUnix::new(short)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use crate::registry::record::tests::record;

    #[test]
    fn a_door_is_found_however_long_its_path_is() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path().join("x".repeat(150)));
        let (entry, _held) = registry.enter(&record("x")).unwrap();
        assert_eq!(knock(&entry).unwrap_err().kind(), ErrorKind::NotFound);
        let door = Door::open(&entry).unwrap();
        assert!(door.accept().unwrap().is_none());
        let _client = knock(&entry).unwrap();
        assert!(door.accept().unwrap().is_some());
        drop(door);
        assert_eq!(
            knock(&entry).unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
        Door::open(&entry).unwrap();
    }
}
