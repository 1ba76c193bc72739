// UNSAFETY: std's `Command` can give a child its descriptors 0, 1 and 2 only, and any other way
// makes it fork, which copies this process's page tables for nothing. `posix_spawn` shares them
// until the exec, and can place the control socket at descriptor 3; it is a C interface of raw
// pointers.
#![expect(unsafe_code, reason = "posix_spawn is a C interface of raw pointers")]

//! Starting the process that holds a sandbox.
//!
//! The child gets an empty environment, a session of its own (so neither the terminal's Ctrl-C nor
//! a compromised child's keystrokes pass between it and the user's terminal), no blocked signals,
//! `/dev/null` as its input and output, and two descriptors of ours: its standard error and its
//! control socket.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use rustix::process::Pid;
use vmm::control::CONTROL_FD;

/// Starts `program` with these arguments (its own name first), with `control` as its descriptor
/// [`CONTROL_FD`] and `stderr` as its standard error.
///
/// # Errors
///
/// The system's, if the program cannot be started.
pub(super) fn spawn(
    program: &Path,
    arguments: &[&CStr],
    control: BorrowedFd,
    stderr: BorrowedFd,
) -> io::Result<Pid> {
    // A descriptor that lies where another one is to be placed would be overwritten.
    let control = out_of_the_way(control)?;
    let stderr = out_of_the_way(stderr)?;
    let path = CString::new(program.as_os_str().as_bytes())?;

    let mut actions = FileActions::new()?;
    actions.open_null(libc::STDIN_FILENO, libc::O_RDONLY)?;
    actions.open_null(libc::STDOUT_FILENO, libc::O_WRONLY)?;
    actions.place(stderr.as_fd(), libc::STDERR_FILENO)?;
    actions.place(control.as_fd(), CONTROL_FD)?;
    let attributes = Attributes::new()?;

    let argv: Vec<_> = arguments
        .iter()
        .map(|argument| argument.as_ptr().cast_mut())
        .chain([ptr::null_mut()])
        .collect();
    let env = [ptr::null_mut()];
    let mut pid = 0;
    // SAFETY: `actions` and `attributes` were initialized by their constructors and live until
    // after the call, as do `path` and the two lists, which end in null pointers.
    let errno = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            path.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            argv.as_ptr(),
            env.as_ptr(),
        )
    };
    check(errno)?;
    Pid::from_raw(pid).ok_or_else(|| io::Error::other("posix_spawn gave no process id"))
}

/// A copy of the descriptor above those that the child's are placed at.
fn out_of_the_way(fd: BorrowedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, CONTROL_FD + 1)?)
}

/// What happens to the child's descriptors between fork and exec.
struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the pointer is to memory for the type that this call initializes.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: the call above succeeded, so it was initialized.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn open_null(&mut self, at: RawFd, flags: i32) -> io::Result<()> {
        // SAFETY: initialized in `new`; the path is copied by the call (POSIX 2024) and static.
        check(unsafe {
            libc::posix_spawn_file_actions_addopen(
                &raw mut self.0,
                at,
                c"/dev/null".as_ptr(),
                flags,
                0,
            )
        })
    }

    fn place(&mut self, fd: BorrowedFd, at: RawFd) -> io::Result<()> {
        // SAFETY: initialized in `new`; descriptors are plain numbers here.
        check(unsafe {
            libc::posix_spawn_file_actions_adddup2(&raw mut self.0, fd.as_raw_fd(), at)
        })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: initialized in `new`, and not used after this.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// What else differs in the child.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// A session of its own, no signal blocked, and the default action for those that a Rust
    /// program or a job-controlling parent ignores.
    fn new() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the pointer is to memory for the type that this call initializes.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: the call above succeeded, so it was initialized.
        let mut attributes = Self(unsafe { attributes.assume_init() });

        let mut signals = MaybeUninit::uninit();
        // SAFETY: the pointer is to memory for the type that this call initializes.
        unsafe { libc::sigemptyset(signals.as_mut_ptr()) };
        // SAFETY: `sigemptyset` cannot fail with a valid pointer.
        let mut signals = unsafe { signals.assume_init() };
        // SAFETY: both were initialized above.
        check(unsafe {
            libc::posix_spawnattr_setsigmask(&raw mut attributes.0, &raw const signals)
        })?;
        for signal in [
            libc::SIGPIPE,
            libc::SIGINT,
            libc::SIGTERM,
            libc::SIGHUP,
            libc::SIGQUIT,
        ] {
            // SAFETY: initialized above, and the numbers are signals.
            unsafe { libc::sigaddset(&raw mut signals, signal) };
        }
        // SAFETY: both were initialized above.
        check(unsafe {
            libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, &raw const signals)
        })?;
        let flags = libc::POSIX_SPAWN_SETSIGMASK
            | libc::POSIX_SPAWN_SETSIGDEF
            | i32::from(libc::POSIX_SPAWN_SETSID);
        let flags = i16::try_from(flags).map_err(io::Error::other)?;
        // SAFETY: initialized above.
        check(unsafe { libc::posix_spawnattr_setflags(&raw mut attributes.0, flags) })?;
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialized in `new`, and not used after this.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

fn check(errno: i32) -> io::Result<()> {
    if errno == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(errno))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use rustix::process::{WaitOptions, waitpid};

    use super::*;

    #[test]
    fn a_child_has_its_descriptors_and_a_session_of_its_own() {
        let tells = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-ins/tells");
        let (control, mut ours) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();

        let pid = spawn(&tells, &[c"tells"], control.as_fd(), writer.as_fd()).unwrap();
        drop((control, writer));
        ours.write_all(b"hello\n").unwrap();
        let mut output = String::new();
        reader.read_to_string(&mut output).unwrap();
        waitpid(Some(pid), WaitOptions::empty()).unwrap();

        let pid = pid.as_raw_nonzero();
        assert_eq!(output, format!("hello {pid} {pid} \n"));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let (control, _ours) = UnixStream::pair().unwrap();
        let error = spawn(
            Path::new("/nowhere/vmm"),
            &[c"vmm"],
            control.as_fd(),
            control.as_fd(),
        )
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
