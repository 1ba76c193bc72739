//! The commands for sandboxes that have a name and a life of their own.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::GlobalsLast;
use super::run::{ChoiceArgs, ExecArgs, SandboxArgs};
use super::values::{
    parse_detach_keys, parse_duration, parse_grace, parse_label, parse_lines, parse_signal,
    parse_since,
};
use crate::name::Name;

/// What a sandbox is called, and how long it lives.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Its name and its life")]
pub struct LifeArgs {
    /// The sandbox's name; one is made up without it
    #[arg(long, value_name = "NAME")]
    pub name: Option<Name>,

    /// A label to find it by
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,

    /// Remove it when it ends
    #[arg(long)]
    pub rm: bool,

    /// End it after this time, whatever it does
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub max_duration: Option<Duration>,

    /// End it when nothing has run in it for this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub idle_timeout: Option<Duration>,
}

/// Make a sandbox without starting it
#[derive(Debug, Args)]
#[command(
    after_long_help = "Prints the sandbox's id. It ends with its command; without one it runs until \
        it is ended.\n\nExample:\n  sovereign create --name work && sovereign start work\n\nValues \
        (TIME, SIZE) are those of `sovereign run`: 30s, 512M.",
    override_usage = "sovereign create [OPTIONS] [--] [COMMAND [ARG]...]",
    globals_last()
)]
pub struct CreateArgs {
    /// The command that runs in it, and its arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
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
    /// How its command runs.
    #[command(flatten)]
    pub exec: ExecArgs,
}

/// Start sandboxes
#[derive(Debug, Args)]
#[command(
    after_help = "A sandbox is started again in the tier that it had, or not at all. What it \
    wrote is there.\n\nExamples:\n  sovereign start work\n  sovereign start -a work                # and stay with its command"
)]
pub struct StartArgs {
    /// Stay with its command, as `attach` does
    #[arg(short, long)]
    pub attach: bool,

    /// Names or ids
    #[arg(required = true, value_name = "SANDBOX")]
    pub sandboxes: Vec<String>,
}

/// Run a command in a running sandbox
#[derive(Debug, Args)]
#[command(
    after_long_help = EXEC_EXAMPLES,
    override_usage = "sovereign exec [OPTIONS] SANDBOX [--] COMMAND [ARG]...",
    globals_last()
)]
pub struct ExecCommandArgs {
    /// The sandbox's name or id
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,

    /// The command and its arguments; they are passed on as they are, and no shell is put between
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,

    /// Leave it running, and print its number
    #[arg(short, long)]
    pub detach: bool,

    /// What to type to leave it running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = parse_detach_keys)]
    pub detach_keys: DetachKeys,

    /// How it runs.
    #[command(flatten)]
    pub exec: ExecArgs,
}

/// Keys, as a terminal sends them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DetachKeys(pub Vec<u8>);

/// Stay with a command that runs in a sandbox
#[derive(Debug, Args)]
#[command(
    after_help = "What it wrote before is shown by `sovereign logs`. The exit code is the \
    command's.\n\nExamples:\n  sovereign attach work\n  sovereign attach --no-stdin work 2       # only watch its command number 2"
)]
pub struct AttachArgs {
    /// The sandbox's name or id
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,

    /// The command's number; 0 is the sandbox's own
    #[arg(value_name = "NUMBER", default_value_t = 0)]
    pub command: u32,

    /// Pass no input on to it
    #[arg(long)]
    pub no_stdin: bool,

    /// What to type to leave it running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = parse_detach_keys)]
    pub detach_keys: DetachKeys,
}

/// End sandboxes, gently: SIGTERM to what runs in them, and the end a while later
#[derive(Debug, Args)]
pub struct StopArgs {
    /// How long what runs in it may take to end: 500ms, 30s, 2m; a number alone is seconds
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = parse_grace)]
    pub time: Duration,

    /// Names or ids
    #[arg(required = true, value_name = "SANDBOX")]
    pub sandboxes: Vec<String>,
}

/// End sandboxes at once, or send their command a signal
#[derive(Debug, Args)]
pub struct KillArgs {
    /// Send this signal to the sandbox's own command, or to all that runs in one without, instead of
    /// ending it
    #[arg(short, long, value_name = "SIGNAL", value_parser = parse_signal)]
    pub signal: Option<u8>,

    /// Send the signal to this command instead of the sandbox's own
    #[arg(long, value_name = "NUMBER", requires = "signal")]
    pub command: Option<u32>,

    /// Names or ids
    #[arg(required = true, value_name = "SANDBOX")]
    pub sandboxes: Vec<String>,
}

/// Remove sandboxes
#[derive(Debug, Args)]
pub struct RmArgs {
    /// End those that run first, and ignore those that do not exist
    #[arg(short, long)]
    pub force: bool,

    /// Names or ids
    #[arg(required = true, value_name = "SANDBOX")]
    pub sandboxes: Vec<String>,
}

/// List sandboxes
#[derive(Debug, Args)]
#[command(
    after_help = "With -q only their ids are printed.\n\nFilters: name=PART, id=PART, label=KEY, label=KEY=VALUE, tier=TIER, \
    status=created|starting|running|exited|failed|dead. Of several filters of one kind, one has to match.\n\n\
    Example:\n  sovereign rm $(sovereign ls -aq --filter status=exited)"
)]
pub struct LsArgs {
    /// Include sandboxes that are not running
    #[arg(short, long)]
    pub all: bool,

    /// Show only those that match
    #[arg(short, long = "filter", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub filters: Vec<(String, String)>,

    /// How to print them
    #[arg(long, value_name = "HOW", value_enum, default_value = "table")]
    pub format: ListFormat,
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Show what a command wrote
#[derive(Debug, Args)]
#[command(
    after_help = "The newest 8 to 16 MiB of each command's output are kept, and the newest 512 KiB to \
    1 MiB of a guest's console since its last start, also of one that has ended or died.\n\nExamples:\n  \
    sovereign logs -f work\n  sovereign logs --since 10m -n 100 -t work\n  \
    sovereign logs --console work"
)]
pub struct LogsArgs {
    /// Keep showing what it writes, until it ends
    #[arg(short, long)]
    pub follow: bool,

    /// Show only what is newer than this: a time ago (10m), a moment (2026-01-31T12:00:00Z, or with
    /// +01:00), or a Unix time
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub since: Option<std::time::SystemTime>,

    /// Show only this many of the last lines, or `all`
    #[arg(short = 'n', long, value_name = "LINES", value_parser = parse_lines)]
    pub tail: Option<usize>,

    /// Show when it wrote each line
    #[arg(short, long)]
    pub timestamps: bool,

    /// Show the console of the guest's kernel and agent instead (tier microvm only)
    #[arg(long, conflicts_with = "command")]
    pub console: bool,

    /// Show what the sandbox's supervisor said instead
    #[arg(long, conflicts_with_all = ["follow", "since", "tail", "timestamps", "console", "command"])]
    pub supervisor: bool,

    /// The sandbox's name or id
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,

    /// The command's number; 0 is the sandbox's own
    #[arg(value_name = "NUMBER", default_value_t = 0)]
    pub command: u32,
}

/// Wait until sandboxes have ended, and print their exit codes
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Wait for this command instead of the sandbox's end
    #[arg(long, value_name = "NUMBER")]
    pub command: Option<u32>,

    /// Names or ids
    #[arg(required = true, value_name = "SANDBOX")]
    pub sandboxes: Vec<String>,
}

/// Give a sandbox another name
#[derive(Debug, Args)]
pub struct RenameArgs {
    /// Its name or id
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// Its new name
    #[arg(value_name = "NAME")]
    pub name: Name,
}

/// Show all that is known of sandboxes
#[derive(Debug, Args)]
pub struct SandboxesArgs {
    /// Names or ids
    #[arg(required = true, value_name = "SANDBOX")]
    pub sandboxes: Vec<String>,
}

/// Show what happens to sandboxes, one JSON object a line
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Show past events too, those newer than this: a time ago (10m), a moment, or a Unix time
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub since: Option<std::time::SystemTime>,

    /// Do not wait for more events
    #[arg(long)]
    pub no_follow: bool,
}

/// Show what runs in a sandbox
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Its name or id
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
}

/// Show what sandboxes use of this machine
#[derive(Debug, Args)]
#[command(after_long_help = STATS_COLUMNS)]
pub struct StatsArgs {
    /// Show it once instead of every second
    #[arg(long)]
    pub no_stream: bool,

    /// How to print it
    #[arg(long, value_name = "HOW", value_enum, default_value = "table")]
    pub format: ListFormat,

    /// Names or ids [default: all that run]
    #[arg(value_name = "SANDBOX")]
    pub sandboxes: Vec<String>,
}

const STATS_COLUMNS: &str = "\
Examples:
  sovereign stats
  sovereign stats --no-stream --json work

Columns:
  CPU      per cent of one CPU since the last look
  USED     memory in use inside
  LIMIT    the most that USED can be, and how much of that it is
  ON HOST  memory taken from this machine
  READ     read from disks so far
  WRITTEN  written to disks so far
  PIDS     processes inside, with the agent's own (one, and one a session)
  `-` means not known.

Where the numbers come from:
  microvm         CPU: the threads of the virtual CPUs, not its devices.
                  USED: the guest's kernel, without what it could free at once.
                  ON HOST: the resident memory of the monitor, in which what a
                  guest has touched once stays.
                  READ, WRITTEN: the guest's virtual disks.
  docker, podman  The container's cgroup; USED is without inactive file cache.
  local           The sum of its processes; shared memory counts for each.

With --json or --format json each look is an array on a line of its own, with an object for each sandbox; `host` in it is what this machine sees.";

const EXEC_EXAMPLES: &str = "\
Examples:
  sovereign exec work -- ls -l /
  sovereign exec -it work -- bash
  n=$(sovereign exec -d work -- sleep 60); sovereign attach work $n

Exit codes and values (TIME, SIZE) are those of `sovereign run`: 30s, 512M.";
