//! `sovereign run`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use agent_protocol::limits::ResourceLimit;
use clap::Args;

use super::life::LifeArgs;
use super::limits::{parse_limit, parse_pid_limit};
use super::values::{
    TierWish, isolation_parser, network_parser, parse_cpus, parse_duration, parse_memory,
    parse_mib, parse_processes, parse_size, tier_parser,
};
use crate::spec::Network;
use crate::tier::Isolation;

/// Run a command in a new sandbox.
#[derive(Debug, Args)]
#[command(
    long_about = "Run a command in a new sandbox, in the strongest tier that this machine really \
        has. The sandbox ends with the command, or with this program, and nothing of it is left; \
        with -d it outlives this program.",
    after_long_help = EXAMPLES,
    override_usage = "sovereign run [OPTIONS] [--] COMMAND [ARG]..."
)]
pub struct RunArgs {
    /// Which sandbox to take.
    #[command(flatten)]
    pub choice: ChoiceArgs,
    /// What it is made of.
    #[command(flatten)]
    pub sandbox: SandboxArgs,
    /// What it is called.
    #[command(flatten)]
    pub life: LifeArgs,
    /// How the command runs in it.
    #[command(flatten)]
    pub exec: ExecArgs,

    /// Leave it running, and print its id; with -d or a name the sandbox is in the list of `ls`,
    /// and stays there when it has ended, unless there is --rm
    #[arg(
        short,
        long,
        help_heading = "Its name and its life",
        conflicts_with = "trace_boot"
    )]
    pub detach: bool,

    /// Afterwards, print where the time went
    #[arg(
        long,
        help_heading = "Output",
        conflicts_with_all = ["name", "labels", "max_duration", "idle_timeout"]
    )]
    pub trace_boot: bool,

    /// The command and its arguments; they are passed on as they are, and no shell is put between
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Which sandbox to take.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which sandbox")]
pub struct ChoiceArgs {
    /// The tier to take; one that is named and cannot be had is an error. `auto` takes the
    /// strongest, and `local` only with consent
    #[arg(long, value_name = "TIER", value_parser = tier_parser())]
    pub tier: Option<TierWish>,

    /// The least isolation to accept; nothing lowers it
    #[arg(long, value_name = "LEVEL", value_parser = isolation_parser())]
    pub min_isolation: Option<Isolation>,

    /// The image to run from: one of the store, or docker:REF for any that the container engine has
    #[arg(long, value_name = "NAME")]
    pub image: Option<String>,

    /// A guest kernel in place of the image's: an ELF vmlinux with a PVH note, or a bzImage
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,

    /// An initramfs (cpio) with the agent in it in place of the image's
    #[arg(long, value_name = "PATH")]
    pub initramfs: Option<PathBuf>,

    /// A root file system (EROFS) in place of the image's
    #[arg(long, value_name = "PATH")]
    pub rootfs: Option<PathBuf>,
}

/// What a sandbox is made of.
#[derive(Debug, Args)]
#[command(next_help_heading = "What it is made of")]
pub struct SandboxArgs {
    /// Number of CPUs, 1 to 32 [default: 1]
    #[arg(long, value_name = "N", value_parser = parse_cpus)]
    pub cpus: Option<u8>,

    /// Memory, at least 32M; what the sandbox never touches is not taken from this machine [default:
    /// 512M]
    #[arg(short, long, value_name = "SIZE", value_parser = parse_memory)]
    pub memory: Option<u32>,

    /// How much may be written to the root file system in the sandbox's memory [default: half of
    /// it]; of a sandbox that stays, nothing that is written is kept then
    #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
    pub overlay_size: Option<u32>,

    /// How much may be written in a sandbox that stays (-d, --name, create), on a disk that is kept
    /// until it is removed, in tier microvm only [default: 8G]
    #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
    pub disk: Option<u32>,

    /// What the sandbox can reach: nothing but itself, or by `bridge` what this machine can reach,
    /// by a network of its own [default: none]
    #[arg(long, value_name = "MODE", value_parser = network_parser())]
    pub network: Option<Network>,

    /// How many processes and threads the sandbox may have, at least 8 [default: 4096; in a
    /// container 2 per MiB of its memory, 256 to 4096]
    #[arg(long, value_name = "N", value_parser = parse_processes)]
    pub pids_limit: Option<u32>,

    /// The sandbox's host name
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,

    /// How long the sandbox may take until it can run the command [default: SOVEREIGN_BOOT_TIMEOUT, or
    /// 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub boot_timeout: Option<Duration>,
}

/// How a command runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "How the command runs")]
pub struct ExecArgs {
    /// Pass this program's standard input on, or with -d that of `attach`; without it the command reads
    /// /dev/null
    #[arg(short, long)]
    pub interactive: bool,

    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,

    /// Set a variable; without a value, to the value that it has here. Nothing else of the
    /// environment here enters the sandbox
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,

    /// Set the variables of a file with lines NAME=VALUE; -e comes after it
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,

    /// The folder to run in [default: the user's home]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<OsString>,

    /// The user to run as, by name or number, with `:` and a group if wanted [default: uid 1000]
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,

    /// End the command and all its children after this time; the exit code is 124 then
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,

    /// Send SIGTERM at the timeout, and SIGKILL only this much later
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "timeout")]
    pub kill_after: Option<Duration>,

    /// Set a limit of the command's processes (getrlimit(2)): nofile=256, fsize=1G, core=unlimited;
    /// HARD is SOFT without one. NAME: as, core, cpu, data, fsize, locks, memlock, msgqueue, nice,
    /// nofile, nproc, rss, rtprio, rttime, sigpending, stack
    #[arg(long = "rlimit", value_name = "NAME=SOFT[:HARD]", value_parser = parse_limit)]
    pub limits: Vec<ResourceLimit>,

    /// How many processes and threads the command and all that it starts may be; in tier microvm
    /// only (in the others --pids-limit bounds the whole sandbox)
    #[arg(long, value_name = "N", value_parser = parse_pid_limit)]
    pub pid_limit: Option<u32>,

    /// Pass on at most this much of standard output and of standard error each [default: no limit;
    /// with --json 1M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_output: Option<u64>,
}

const EXAMPLES: &str = "\
Examples:
  sovereign run -- python3 -c 'print(\"hello from a sandbox\")'
  sovereign run -i -- sh < script.sh
  sovereign run -it -- bash
  sovereign run --cpus 2 -m 1G --timeout 30s -e KEY=value -w /tmp -- ./job
  sovereign run --min-isolation vm --json -- true

Exit codes:
  the command's own; 128+N if signal N killed it; 124 at the timeout; 125 if the engine failed or
  was used wrongly; 126 if the command cannot be executed; 127 if it was not found

With --json, standard output and standard error are collected instead of passed on (each up to
--max-output), and one object is printed: exit_code, signal, timed_out, truncated, duration_ms,
stdout, stdout_encoding (utf-8 or base64), stderr, stderr_encoding, tier, isolation, passed_over,
and error (null, or code, message and hint).

Signals: SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on to the command. Two of them within a
second end the sandbox at once.";
