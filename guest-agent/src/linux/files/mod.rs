//! Files, for a session: a process of its own, with the rights of the user who asks.
//!
//! ```text
//!  session ──fork──▶ operation      standard input: what comes from the host
//!    relays, as         │           standard output: what goes there
//!    for a command      └─ report   standard error: how it ended
//! ```
//!
//! Data in bulk takes a lane, where the host has made one: then the streams only tell of it.
//!
//! The process is what a command's would be: of the same user, in the same folder, with the same
//! streams. It only executes no other program. So paths mean what they
//! mean to a command, and nothing is reached that a command of this user could not reach.
//!
//! When the host is gone, its streams end, and it has a moment to remove what it has not finished.

mod change;
mod data;
mod entries;
mod fault;
mod find;
pub(crate) mod lane;
mod streams;
mod tree;
mod watch;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, Instant};

use agent_protocol::files::{FileFault, FileOperation, FileReport, FileRequest, Transfer};
use agent_protocol::from_agent::AgentFrame;
use agent_protocol::message::{AgentError, ExecRequest};
use rustix::fs::Mode;
use rustix::process::{Gid, Pid, Resource, Rlimit, Signal, Uid, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, set_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use self::lane::Lane;
use self::streams::Streams;
pub(crate) use self::streams::{In, Out, sent};
use crate::linux::connection::Connection;
use crate::linux::exec::account::Files;
use crate::linux::exec::command::Command;
use crate::linux::exec::relay::{Relay, Running};
use crate::linux::exec::stdio::{Ours, Stdio};
use crate::linux::fork::{Forked, fork};
use crate::linux::reason::reason;
use crate::linux::sys::SignalFd;

/// How long the host may take to take a refusal.
const REFUSE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an operation that nobody waits for any more may take to remove what it has not finished:
/// it learns from its streams, which end then.
const FAREWELL: Duration = Duration::from_secs(1);
/// The bits that new files do not have, whatever they were asked for with.
const UMASK: Mode = Mode::from_raw_mode(0o022);

/// Does what is asked, as the user of `identity`, and tells the host how it ended.
pub(crate) fn serve(
    mut connection: Connection,
    identity: &ExecRequest,
    request: &FileRequest,
    signals: &SignalFd,
    lanes: Option<&str>,
) {
    // Where there is none, data goes without.
    let lane = request.lane.then(|| Lane::of(&mut connection, lanes));
    let lane = lane.and_then(Result::ok);
    // What nobody has asked for.
    drop(connection.take_descriptor());
    match start(identity, request, lane) {
        Ok((pid, ours)) => {
            let running = Running {
                pid,
                ours,
                began: Instant::now(),
                farewell: Some(FAREWELL),
            };
            Relay::new(connection, signals, identity, running).run();
        }
        Err(error) => {
            connection.push(&AgentFrame::Error(error));
            connection.finish(Instant::now() + REFUSE_TIMEOUT);
        }
    }
}

fn start(
    identity: &ExecRequest,
    request: &FileRequest,
    lane: Option<Lane>,
) -> Result<(Pid, Ours), AgentError> {
    let command = Command::resolve(identity, &Files)?;
    let owner = command
        .identity()
        .map(|identity| (identity.uid, identity.gid));
    let Stdio { ours, theirs } = Stdio::new(identity, owner)?;
    let forked = fork().map_err(|error| AgentError::System {
        doing: "creating a process for the operation".to_owned(),
        reason: reason(error),
    })?;
    match forked {
        Forked::Parent(pid) => Ok((pid, ours)),
        Forked::Child => {
            // What holds the other ends would keep this process from seeing their ends.
            drop(ours);
            let outcome = become_operation(&command, theirs.fds())
                .map_err(|error| fault::at(b"sandbox", error))
                .and_then(|()| perform(request, lane));
            tell(outcome);
            process::exit(0)
        }
    }
}

/// Gives this process the streams, the folder and the rights that a command would have.
fn become_operation(command: &Command, stdio: [std::os::fd::BorrowedFd<'_>; 3]) -> io::Result<()> {
    let [stdin, stdout, stderr] = stdio;
    rustix::process::setsid()?;
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)?;
    if let Some(identity) = command.identity() {
        let groups: Vec<_> = identity.groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        if uid.is_root() {
            give_up_capabilities()?;
        }
    }
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::umask(UMASK);
    open_as_many_as_may_be();
    // Without its home, a user's relative paths begin at the root.
    if rustix::process::chdir(command.directory.as_c_str()).is_err() {
        rustix::process::chdir("/")?;
    }
    Ok(())
}

/// A tree costs a descriptor for each of its levels, and may be deeper than a process has at first.
fn open_as_many_as_may_be() {
    let limit = getrlimit(Resource::Nofile);
    // With fewer it does what it can.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

/// Gives up what root's commands do not have: executing a program takes from root what the bounding
/// set lacks (capabilities(7)).
fn give_up_capabilities() -> io::Result<()> {
    let sets = capabilities(None)?;
    let kept: CapabilitySet = sets
        .permitted
        .iter()
        .filter(|one| capability_is_in_bounding_set(*one).unwrap_or(false))
        .collect();
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}

/// Does what is asked.
fn perform(request: &FileRequest, lane: Option<Lane>) -> Result<Transfer, FileFault> {
    let path = path(&request.path);
    let streams = Streams::new(request.lane, lane).map_err(|error| fault::stream(&error))?;
    let output = || streams.output().map_err(|error| fault::stream(&error));
    let input = || streams.input().map_err(|error| fault::stream(&error));
    match &request.operation {
        FileOperation::Stat { follow } => entries::stat(&path, *follow, output()?),
        FileOperation::List => entries::list(&path, output()?),
        FileOperation::MakeDirectory { parents, mode } => {
            change::make_directory(&path, *parents, *mode)
        }
        FileOperation::Rename { to } => change::rename(&path, &self::path(to)),
        FileOperation::Remove { recursive } => change::remove(&path, *recursive),
        FileOperation::Read { offset, length } => data::read(&path, *offset, *length, output()?),
        FileOperation::Write { mode } => data::write(&path, *mode, input()?),
        FileOperation::Pack { name, follow } => tree::pack(&path, name, *follow, output()?),
        FileOperation::Unpack { root, owners } => {
            let root = root.as_ref().map(|root| root.as_slice());
            tree::unpack(&path, root, *owners, input()?)
        }
        FileOperation::Find { name, contains } => {
            let name = name.as_ref().map(|name| name.as_slice());
            let contains = contains.as_ref().map(|text| text.as_slice());
            find::find(&path, name, contains, output()?)
        }
        FileOperation::Watch { recursive } => watch::watch(&path, *recursive, output()?),
    }
}

/// Writes the report. Nobody hears that it cannot be written.
fn tell(outcome: Result<Transfer, FileFault>) {
    let report = match outcome {
        Ok(transfer) => FileReport::Done(transfer),
        Err(fault) => FileReport::Failed(fault),
    };
    let mut text = Vec::new();
    if agent_protocol::files::encode_record(&report, &mut text).is_ok()
        && let Ok(stderr) = rustix::io::dup(rustix::stdio::stderr())
    {
        let _ = File::from(stderr).write_all(&text);
    }
}

fn path(bytes: &[u8]) -> PathBuf {
    Path::new(std::ffi::OsStr::from_bytes(bytes)).to_path_buf()
}
