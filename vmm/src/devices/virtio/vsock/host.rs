//! Where the host's streams come from.
//!
//! They are handed over one by one, each for a port ([`PassedStreams`]), or they come by way of Unix
//! sockets in the file system ([`PathInterface`]), as Firecracker and its clients know it:
//!
//! ```text
//!   to guest port P:     connect to <path>, send "CONNECT P\n", receive "OK <host port>\n"
//!   from the guest to P: the guest's connection is joined to one made to <path>_P
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, socket_with,
};

use super::VsockError;
use super::stream::HostStream;

/// The most passed streams that wait for the guest, and the most ports that they are for.
const MAX_PASSED: usize = 1024;

/// The longest line that a client may send: `CONNECT 4294967295\n` has 19 bytes.
const MAX_LINE: usize = 32;

/// The most bytes of a path that a Unix socket address holds (`sun_path`, with its final zero).
const MAX_ADDRESS: usize = 107;

/// The most bytes that a port adds to the path: `_4294967295`.
const PORT_SUFFIX: usize = 11;

/// Streams that wait for the guest to connect to their port.
#[derive(Debug, Default)]
pub(super) struct PassedStreams {
    /// A port stays here after its last stream was taken: it is known to be served.
    ports: BTreeMap<u32, VecDeque<OwnedFd>>,
    waiting: usize,
}

impl PassedStreams {
    /// Queues a stream behind the others for its port. Closes it if too many wait.
    pub(super) fn put(&mut self, port: u32, stream: OwnedFd) {
        if self.waiting >= MAX_PASSED {
            return;
        }
        if self.ports.len() >= MAX_PASSED {
            self.ports.retain(|_, streams| !streams.is_empty());
        }
        self.ports.entry(port).or_default().push_back(stream);
        self.waiting += 1;
    }

    /// Takes the stream that has waited longest for this port.
    pub(super) fn take(&mut self, port: u32) -> Option<OwnedFd> {
        let stream = self.ports.get_mut(&port)?.pop_front()?;
        self.waiting -= 1;
        Some(stream)
    }

    /// Whether there has ever been a stream for this port, so that another may come.
    pub(super) fn is_served(&self, port: u32) -> bool {
        self.ports.contains_key(&port)
    }

    /// Closes all streams.
    pub(super) fn clear(&mut self) {
        self.ports.values_mut().for_each(VecDeque::clear);
        self.waiting = 0;
    }
}

/// The listening socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub(super) struct PathInterface {
    listener: UnixListener,
    path: PathBuf,
}

impl PathInterface {
    /// Listens at `path`, where nothing may be yet.
    pub(super) fn listen(path: &Path) -> Result<Self, VsockError> {
        let longest = MAX_ADDRESS - PORT_SUFFIX;
        let len = path.as_os_str().len();
        if len > longest {
            return Err(VsockError::PathTooLong {
                path: path.to_owned(),
                len,
                longest,
            });
        }
        let listener = UnixListener::bind(path).map_err(|source| bind_error(path, source))?;
        listener
            .set_nonblocking(true)
            .map_err(|source| VsockError::Listen {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// The next client, if one waits.
    pub(super) fn accept(&self) -> Option<HostStream> {
        // Any error is about that one client or about our limits, and the next event tries again.
        let stream =
            accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
        Some(HostStream::new(stream))
    }

    /// Connects to whoever serves this port on the host.
    pub(super) fn dial(&self, port: u32) -> io::Result<OwnedFd> {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        let address = SocketAddrUnix::new(PathBuf::from(path))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // It is connected at once or not at all: a full backlog is EAGAIN (unix(7)).
        connect(&stream, &address)?;
        Ok(stream)
    }
}

impl AsRawFd for PathInterface {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

impl Drop for PathInterface {
    fn drop(&mut self) {
        // If it has gone, or the directory has become read-only, there is nothing to do about it.
        let _ = fs::remove_file(&self.path);
    }
}

fn bind_error(path: &Path, source: io::Error) -> VsockError {
    let path = path.to_owned();
    if source.kind() != io::ErrorKind::AddrInUse {
        return VsockError::Listen { path, source };
    }
    match fs::symlink_metadata(&path) {
        Ok(file) if file.file_type().is_socket() => VsockError::SocketExists { path },
        _ => VsockError::ForeignFile { path },
    }
}

/// What a client of the path interface has said so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// Nothing complete.
    Incomplete,
    /// `CONNECT <port>`; the line is taken from the stream, what follows it is left there.
    Connect(u32),
    /// Something else, or nothing more will come.
    Invalid,
}

/// Reads a client's request. What is no complete line is left where it is, so a client that trickles
/// costs no memory.
pub(super) fn read_request(client: &HostStream) -> Request {
    let mut seen = [0; MAX_LINE];
    let count = match client.peek(&mut seen) {
        Ok(None) => return Request::Incomplete,
        Ok(Some(0)) | Err(_) => return Request::Invalid,
        Ok(Some(count)) => count,
    };
    let seen = seen.get(..count).unwrap_or_default();
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        return if count < MAX_LINE {
            Request::Incomplete
        } else {
            Request::Invalid
        };
    };
    let Some(port) = seen.get(..end).and_then(parse_request) else {
        return Request::Invalid;
    };
    let mut line = [0; MAX_LINE];
    match line.get_mut(..=end).map(|line| client.take(line)) {
        Some(Ok(Some(taken))) if taken == end + 1 => Request::Connect(port),
        _ => Request::Invalid,
    }
}

fn parse_request(line: &[u8]) -> Option<u32> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (verb, port) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    // `parse` would take a sign.
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (verb.eq_ignore_ascii_case("connect") && digits).then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_parsed_strictly() {
        assert_eq!(parse_request(b"CONNECT 1024"), Some(1024));
        assert_eq!(parse_request(b"connect 4294967295\r"), Some(u32::MAX));
        for line in [
            &b""[..],
            b"CONNECT",
            b"CONNECT ",
            b"CONNECT 4294967296",
            b"CONNECT +1",
            b"CONNECT -1",
            b"CONNECT  1",
            b"CONNECT 1 ",
            b"CONNECT 0x10",
            b"GET / HTTP/1.1",
            b"CONNECT \xff",
        ] {
            assert_eq!(
                parse_request(line),
                None,
                "{}",
                String::from_utf8_lossy(line)
            );
        }
    }

    #[test]
    fn passed_streams_are_bounded_and_come_out_in_order() {
        let mut streams = PassedStreams::default();
        let stream = || OwnedFd::from(fs::File::open("/dev/null").unwrap());
        let first = stream();
        let number = first.as_raw_fd();
        streams.put(1, first);
        for port in 1..2000 {
            streams.put(port, stream());
        }
        assert_eq!(streams.waiting, MAX_PASSED);
        assert_eq!(
            streams.take(1).map(|stream| stream.as_raw_fd()),
            Some(number)
        );
        assert!(streams.take(1).is_some());
        assert!(streams.take(1).is_none());
        assert!(streams.is_served(1));
        assert!(!streams.is_served(1999));
    }
}
