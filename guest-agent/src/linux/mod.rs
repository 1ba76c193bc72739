//! The agent on Linux.
//!
//! ```text
//!  agent (one thread) ──fork──▶ session, one a connection ──clone──▶ command
//!    accepts, reaps               speaks the protocol,                  └─ its tree
//!    powers off                   relays, reaps and kills its tree
//! ```
//!
//! A session is a process of its own and a child subreaper: every process that its command leaves
//! behind becomes its child, so that it can reap and kill the whole tree without cgroups, in every
//! tier. No session waits for another, none can take another down, and as no process here that forks has
//! a second thread, there is nothing that a fork could tear.

use std::process::ExitCode;

use crate::arguments::{self, Role, USAGE};

mod bridge;
mod confine;
mod connection;
mod exec;
mod files;
mod fork;
mod init;
mod limits;
mod listen;
mod oom;
mod poll;
mod reason;
mod serve;
mod session;
mod stat;
mod sys;
mod usage;

/// Does what the role says. As init it does not return.
pub(crate) fn run(role: Role) -> ExitCode {
    match role {
        Role::Init => init::run(),
        Role::Listen(path) => serve::listen_at(&path),
        Role::Descriptor(number) => serve::descriptor(number),
        Role::Local(number) => confine::serve(number),
        Role::Control(path) => serve::control_at(&path),
        Role::Bridge => bridge::serve(),
        Role::Join => bridge::join(),
        Role::Version => {
            println!("{}", arguments::version());
            ExitCode::SUCCESS
        }
        Role::Help => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Role::Misused(problem) => {
            eprintln!("sovereign-agent: {problem}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
