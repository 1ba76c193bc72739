//! A file system that knows files and names, and nothing else: no files without a name (`O_TMPFILE`).
//! There are such file systems on many machines, but none that every test's machine could mount.
//!
//! It is one folder in this process's memory, which serves it over FUSE (linux/fuse.h, protocol 7.31).
//! Mounting it needs root.

mod wire;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use self::wire::{Request, init, opcode, opened, put, statistics};

/// The folder's number; files have higher ones.
const FOLDER: u64 = 1;
const FOLDER_MODE: u32 = 0o040_777;
/// The longest request: what the kernel has to be offered at least is 8 KiB more than one write.
const REQUEST: usize = MAX_WRITE + 64 * 1024;
const MAX_WRITE: usize = 32 * 1024;

/// A mounted one. Dropped, it is gone.
#[derive(Debug)]
pub struct BareFs {
    place: PathBuf,
    pause_us: Arc<AtomicU64>,
    server: Option<JoinHandle<()>>,
}

impl BareFs {
    /// Mounts an empty one on a folder.
    ///
    /// # Errors
    ///
    /// If it cannot be mounted here.
    pub fn mount(place: &Path) -> Result<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let device = device.context("/dev/fuse")?;
        let options = format!(
            "fd={},rootmode=40777,user_id=0,group_id=0,allow_other,default_permissions\0",
            device.as_raw_fd()
        );
        let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes())?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("bare", place, "fuse", flags, options).context("mount")?;
        let pause_us = Arc::new(AtomicU64::new(0));
        let mut server = Server {
            device,
            pause_us: Arc::clone(&pause_us),
            names: BTreeMap::new(),
            files: BTreeMap::new(),
            next: FOLDER + 1,
        };
        Ok(Self {
            place: place.to_owned(),
            pause_us,
            server: Some(thread::spawn(move || server.serve())),
        })
    }

    /// Has each write take this long.
    pub fn write_slowly(&self, pause: Duration) {
        let pause = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        self.pause_us.store(pause, Ordering::Relaxed);
    }
}

impl Drop for BareFs {
    fn drop(&mut self) {
        self.write_slowly(Duration::ZERO);
        // What cannot be unmounted is seen, and its server has no end.
        if unmount(&self.place, UnmountFlags::DETACH).is_ok()
            && let Some(server) = self.server.take()
        {
            let _ = server.join();
        }
    }
}

/// A file.
#[derive(Debug, Default)]
struct Node {
    mode: u32,
    owner: (u32, u32),
    modified: (u64, u32),
    content: Vec<u8>,
    links: u32,
}

/// Who answers the kernel.
#[derive(Debug)]
struct Server {
    device: File,
    pause_us: Arc<AtomicU64>,
    names: BTreeMap<Vec<u8>, u64>,
    files: BTreeMap<u64, Node>,
    next: u64,
}

impl Server {
    /// Answers until the file system is not mounted any more.
    fn serve(&mut self) {
        let mut buffer = vec![0; REQUEST];
        loop {
            let length = match self.device.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => continue,
                Err(_) => return,
            };
            let request = buffer.get(..length).unwrap_or_default();
            let Some((unique, request)) = Request::read(request) else {
                return;
            };
            if let Some(answer) = self.answer(&request) {
                let (error, data) = match answer {
                    Ok(data) => (0, data),
                    Err(error) => (-error.raw_os_error(), Vec::new()),
                };
                // Whoever asked may be gone.
                let _ = self.device.write_all(&wire::reply(unique, error, &data));
            }
        }
    }

    /// The answer, if there is to be one.
    fn answer(&mut self, request: &Request<'_>) -> Option<Result<Vec<u8>, Errno>> {
        use opcode::{
            BATCH_FORGET, CREATE, FLUSH, FORGET, FSYNC, GETATTR, INIT, INTERRUPT, LOOKUP, OPEN,
            OPENDIR, READ, READDIR, RELEASE, RELEASEDIR, RENAME, RENAME2, SETATTR, STATFS, UNLINK,
            WRITE,
        };
        Some(match request.opcode {
            FORGET | BATCH_FORGET | INTERRUPT => return None,
            INIT => Ok(init()),
            LOOKUP => self.find(&request.name(0)).map(|node| self.entry(node)),
            GETATTR => self.attributes(request.node),
            SETATTR => self.change(request),
            OPEN | OPENDIR => Ok(opened()),
            CREATE => Ok(self.create(request)),
            READ => self.read(request),
            WRITE => self.write(request),
            UNLINK => self.unlink(&request.name(0)),
            RENAME => self.rename(request.names(8)),
            RENAME2 if request.u32(8) == 0 => self.rename(request.names(16)),
            READDIR => Ok(self.list(request.u64(8))),
            STATFS => Ok(statistics()),
            RELEASE | RELEASEDIR | FLUSH | FSYNC => Ok(Vec::new()),
            _ => Err(Errno::NOSYS),
        })
    }

    fn find(&self, name: &[u8]) -> Result<u64, Errno> {
        self.names.get(name).copied().ok_or(Errno::NOENT)
    }

    fn file(&mut self, node: u64) -> Result<&mut Node, Errno> {
        self.files.get_mut(&node).ok_or(Errno::STALE)
    }

    fn create(&mut self, request: &Request<'_>) -> Vec<u8> {
        let name = request.name(16);
        let node = self.find(&name).unwrap_or_else(|_| {
            let node = self.next;
            self.next += 1;
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let file = Node {
                mode: 0o100_000 | request.u32(4) & 0o7777,
                owner: request.owner,
                modified: (now.unwrap_or_default().as_secs(), 0),
                links: 1,
                ..Node::default()
            };
            self.files.insert(node, file);
            self.names.insert(name, node);
            node
        });
        let mut answer = self.entry(node);
        answer.extend(opened());
        answer
    }

    /// linux/fuse.h, `struct fuse_setattr_in` and the bits `FATTR_*`.
    fn change(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        let has = |bit: u32| request.u32(0) & (1 << bit) != 0;
        let file = self.file(request.node)?;
        if has(0) {
            file.mode = 0o100_000 | request.u32(68) & 0o7777;
        }
        if has(1) {
            file.owner.0 = request.u32(76);
        }
        if has(2) {
            file.owner.1 = request.u32(80);
        }
        if has(3) {
            let size = usize::try_from(request.u64(16)).map_err(|_| Errno::FBIG)?;
            file.content.resize(size, 0);
        }
        if has(5) {
            file.modified = (request.u64(40), request.u32(60));
        }
        self.attributes(request.node)
    }

    fn read(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        let (at, size) = (request.u64(8), request.u32(16));
        let content = &self.file(request.node)?.content;
        let place =
            |number: u64| usize::try_from(number).map_or(content.len(), |at| at.min(content.len()));
        Ok(content
            .get(place(at)..place(at + u64::from(size)))
            .unwrap_or_default()
            .to_vec())
    }

    fn write(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        thread::sleep(Duration::from_micros(self.pause_us.load(Ordering::Relaxed)));
        let size = request.u32(16);
        let at = usize::try_from(request.u64(8)).map_err(|_| Errno::FBIG)?;
        let data = request.body.get(40..).unwrap_or_default();
        let file = self.file(request.node)?;
        let end = at + data.len();
        if file.content.len() < end {
            file.content.resize(end, 0);
        }
        if let Some(place) = file.content.get_mut(at..end) {
            place.copy_from_slice(data);
        }
        let mut answer = Vec::new();
        put(&mut answer, &[size, 0]);
        Ok(answer)
    }

    fn unlink(&mut self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let node = self.names.remove(name).ok_or(Errno::NOENT)?;
        // Whoever has it open goes on with it.
        self.file(node)?.links = 0;
        Ok(Vec::new())
    }

    fn rename(&mut self, mut names: impl Iterator<Item = Vec<u8>>) -> Result<Vec<u8>, Errno> {
        let (from, to) = names.next().zip(names.next()).ok_or(Errno::INVAL)?;
        let node = self.names.remove(&from).ok_or(Errno::NOENT)?;
        if let Some(old) = self.names.insert(to, node) {
            self.file(old)?.links = 0;
        }
        Ok(Vec::new())
    }

    /// `struct fuse_dirent`, one after the other, from this one on.
    fn list(&self, from: u64) -> Vec<u8> {
        let mut answer = Vec::new();
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        for (at, (name, node)) in self.names.iter().enumerate().skip(from) {
            const REGULAR: u32 = 8;
            if answer.len() + 24 + name.len() + 8 > 4096 {
                break;
            }
            answer.extend(node.to_ne_bytes());
            answer.extend((at as u64 + 1).to_ne_bytes());
            put(
                &mut answer,
                &[u32::try_from(name.len()).unwrap_or(0), REGULAR],
            );
            answer.extend(name);
            answer.resize(answer.len().next_multiple_of(8), 0);
        }
        answer
    }

    /// `struct fuse_entry_out`: nothing of it is to be remembered.
    fn entry(&self, node: u64) -> Vec<u8> {
        let mut answer = Vec::new();
        answer.extend(node.to_ne_bytes());
        answer.resize(40, 0);
        answer.extend(self.attribute(node));
        answer
    }

    /// `struct fuse_attr_out`.
    fn attributes(&self, node: u64) -> Result<Vec<u8>, Errno> {
        if node != FOLDER && !self.files.contains_key(&node) {
            return Err(Errno::STALE);
        }
        let mut answer = vec![0; 16];
        answer.extend(self.attribute(node));
        Ok(answer)
    }

    /// `struct fuse_attr`.
    fn attribute(&self, node: u64) -> Vec<u8> {
        let folder = Node {
            mode: FOLDER_MODE,
            links: 2,
            ..Node::default()
        };
        let file = self.files.get(&node).unwrap_or(&folder);
        let size = file.content.len() as u64;
        let (seconds, nanoseconds) = file.modified;
        let mut answer = Vec::new();
        for number in [node, size, size.div_ceil(512), seconds, seconds, seconds] {
            answer.extend(number.to_ne_bytes());
        }
        let (uid, gid) = file.owner;
        let times = [nanoseconds; 3];
        put(&mut answer, &times);
        put(&mut answer, &[file.mode, file.links, uid, gid, 0, 4096, 0]);
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, Mode, OFlags, openat};

    use super::*;

    #[test]
    fn files_are_kept_and_none_is_without_a_name() {
        let place = tempfile::tempdir().unwrap();
        let bare = match BareFs::mount(place.path()) {
            Ok(bare) => bare,
            Err(error) => {
                eprintln!("skipped: {error:#}");
                return;
            }
        };
        let path = |name: &str| place.path().join(name);
        fs::write(path("a"), vec![7; 100_000]).unwrap();
        fs::rename(path("a"), path("b")).unwrap();
        assert_eq!(fs::read(path("b")).unwrap(), vec![7; 100_000]);
        let names = || fs::read_dir(&place).unwrap().count();
        assert_eq!(names(), 1);
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        let nameless = openat(CWD, place.path(), flags, Mode::RUSR);
        assert_eq!(nameless.unwrap_err(), Errno::OPNOTSUPP);
        fs::remove_file(path("b")).unwrap();
        assert_eq!(names(), 0);
        drop(bare);
        assert!(!path("b").exists());
    }
}
