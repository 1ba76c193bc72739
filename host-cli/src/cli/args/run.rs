//! `sovereign run`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use agent_protocol::limits::ResourceLimit;
use clap::Args;

use super::GlobalsLast;
use super::life::LifeArgs;
use super::limits::{parse_limit, parse_pid_limit};
use super::values::{
    TierWish, isolation_parser, network_parser, parse_cpus, parse_duration, parse_memory,
    parse_mib, parse_processes, parse_size, tier_parser,
};
use crate::spec::Network;
use crate::tier::Isolation;

/// Run a command in a new sandbox
#[derive(Debug, Args)]
#[command(
    long_about = "Run a command in a new sandbox, in the strongest tier that this machine really \
        has. The sandbox ends with the command, or with this program, and nothing of it is left; \
        with -d it outlives this program.",
    after_long_help = EXAMPLES,
    override_usage = "sovereign run [OPTIONS] [--] COMMAND [ARG]...",
    globals_last()
)]
pub struct RunArgs {
    /// The command and its arguments; they are passed on as they are, and no shell is put between
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,

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

    /// The image to run from: one of the store, or in tiers docker and podman docker:REF for any that
    /// the engine has; not in tier local
    #[arg(long, value_name = "NAME")]
    pub image: Option<String>,

    /// A guest kernel in place of the image's: an ELF vmlinux with a PVH note, or a bzImage (tier
    /// microvm only)
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,

    /// An initramfs (cpio) with the agent in it in place of the image's (tier microvm only)
    #[arg(long, value_name = "PATH")]
    pub initramfs: Option<PathBuf>,

    /// A root file system (EROFS) in place of the image's (tier microvm only)
    #[arg(long, value_name = "PATH")]
    pub rootfs: Option<PathBuf>,
}

/// What a sandbox is made of.
#[derive(Debug, Args)]
#[command(next_help_heading = "What it is made of")]
pub struct SandboxArgs {
    /// Number of CPUs, 1 to 32; not in tier local [default: 1]
    #[arg(long, value_name = "N", value_parser = parse_cpus)]
    pub cpus: Option<u8>,

    /// Memory, at least 32M; what the sandbox never touches is not taken from this machine. Not in tier
    /// local [default: 512M]
    #[arg(short, long, value_name = "SIZE", value_parser = parse_memory)]
    pub memory: Option<u32>,

    /// How much may be written to the root file system in the sandbox's memory [default: half of
    /// it]; in a sandbox that stays, what is written is then lost when it stops. Not in an unconfined
    /// tier local
    #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
    pub overlay_size: Option<u32>,

    /// How much may be written in a sandbox that stays (-d, --name, create), on a disk that is kept
    /// until it is removed (tier microvm only) [default: 8G]
    #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
    pub disk: Option<u32>,

    /// What the sandbox can reach: `none` is nothing but itself, `bridge` what this machine can reach,
    /// by a network of its own (tiers docker and podman only) [default: none]
    #[arg(long, value_name = "MODE", value_parser = network_parser())]
    pub network: Option<Network>,

    /// Most processes and threads of the sandbox, at least 8; not in tier microvm, nor in an
    /// unconfined tier local [default: 4096; in a container 2 per MiB of its memory, 256 to 4096]
    #[arg(long, value_name = "N", value_parser = parse_processes)]
    pub pids_limit: Option<u32>,

    /// The sandbox's host name; not in an unconfined tier local
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
    /// Pass standard input on to the command, with -d that of `attach`; without -i it reads /dev/null
    #[arg(short, long)]
    pub interactive: bool,

    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,

    /// Set a variable; without a value, to the value that it has here. No other variable from here
    /// enters the sandbox
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,

    /// Set the variables of a file with lines NAME=VALUE; -e overrides them
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,

    /// The folder to run in [default: the user's home]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<OsString>,

    /// The user to run as, by name or number; in tiers docker and podman uid 1000 only [default: uid
    /// 1000]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,

    /// End the command and all its children after this time; the exit code is 124 then
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,

    /// At the timeout send SIGTERM, and SIGKILL this much later
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "timeout")]
    pub kill_after: Option<Duration>,

    /// Set a limit of the command's processes (getrlimit(2)): nofile=256, fsize=1G, core=unlimited;
    /// HARD is SOFT without one. NAME: as, core, cpu, data, fsize, locks, memlock, msgqueue, nice,
    /// nofile, nproc, rss, rtprio, rttime, sigpending, stack
    #[arg(long = "rlimit", value_name = "NAME=SOFT[:HARD]", value_parser = parse_limit)]
    pub limits: Vec<ResourceLimit>,

    /// Most processes and threads of this command (tier microvm only; in the others --pids-limit
    /// bounds the whole sandbox)
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
  sovereign run -i -- sh < script.sh              # a script from here
  sovereign run -it -- bash
  sovereign run --timeout 30s -e KEY=value -w /tmp -- sh -c 'pwd; echo $KEY'
  sovereign run --cpus 2 -m 1G -- nproc           # not in tier local
  sovereign run --min-isolation vm --json -- true

No folder of this machine is shared with a sandbox. A program of yours is copied into one that stays:
  sovereign run -d --name work -- sleep infinity
  sovereign cp project work:
  sovereign exec -w /home/sandbox/project work -- ls -l
  sovereign rm -f work

Values:
  TIME  500ms, 30s, 2m, '1m 30s'; a number alone is seconds
  SIZE  64K, 512M, 2G; memory and disks come in whole MiB

Exit codes:
  the command's own; 128+N if signal N killed it
  124  the timeout
  125  the engine failed, or was used wrongly
  126  the command cannot be executed
  127  the command was not found

With --json, standard output and standard error are collected (each up to --max-output) and printed as one object with the result; docs/json/README.md describes its fields, and the codes of errors.

Signals: SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to the command. One of the first four, sent twice within a second, ends the sandbox at once.";
