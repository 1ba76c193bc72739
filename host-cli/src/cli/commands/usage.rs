//! `sovereign stats` and `top`: what sandboxes use, and what runs in them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::thread;
use std::time::{Duration, Instant};

use agent_protocol::message::ExecRequest;
use agent_protocol::usage::CountedBy;
use indicatif::HumanBytes;
use serde::Serialize;

use crate::cli::args::{GlobalArgs, ListFormat, StatsArgs, TopArgs};
use crate::cli::legible;
use crate::cli::report::sandbox::of_sandbox;
use crate::cli::report::{print, print_json, print_json_line};
use crate::detached::{Detached, DetachedError};
use crate::error::{ErrorKind, Problem};
use crate::registry::{Id, Name, Registry};
use crate::tier::Tier;
use crate::usage::{HostUsage, Stats};

/// How often it is measured.
const INTERVAL: Duration = Duration::from_secs(1);
/// What a CPU does takes two looks: how long after the first one the second comes.
const FIRST_INTERVAL: Duration = Duration::from_millis(200);
/// ECMA-48: to the first place, and clear from there on.
const CLEAR: &str = "\x1b[H\x1b[J";

/// How much of a list of processes is shown.
const MOST: usize = 1 << 20;

/// What a sandbox uses. What nobody tells is null.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "Usage"))]
pub(in crate::cli) struct Line {
    /// Its id.
    id: Id,
    /// Its name.
    name: Name,
    /// Where it is.
    tier: Option<Tier>,
    /// Of one CPU, since the last measurement.
    cpu_percent: Option<f64>,
    /// CPU time so far of what runs in it.
    cpu_ms: Option<u64>,
    /// Memory in use inside.
    memory_bytes: Option<u64>,
    /// The most that it could be.
    memory_limit_bytes: Option<u64>,
    /// Read from disks so far.
    read_bytes: Option<u64>,
    /// Written to disks so far.
    written_bytes: Option<u64>,
    /// Processes inside.
    processes: Option<u64>,
    /// Who counts inside: its kernel, its cgroup, or nobody, so that it is the sum over its processes.
    counted_by: Option<Counter>,
    /// What it takes from this machine; null if it is not on this machine.
    host: Option<HostLine>,
}

/// Who counts what a sandbox uses inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
enum Counter {
    /// A kernel of its own.
    Kernel,
    /// Its cgroup.
    Cgroup,
    /// Nobody: it is the sum over its processes.
    Processes,
}

/// What a sandbox takes from this machine.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "HostUsage"))]
struct HostLine {
    /// CPU time so far of what runs in it.
    cpu_ms: u64,
    /// CPU time so far of a virtual machine's devices.
    overhead_cpu_ms: Option<u64>,
    /// Memory that it takes.
    memory_bytes: u64,
    /// Read from this machine's disks so far.
    read_bytes: Option<u64>,
    /// Written to this machine's disks so far.
    written_bytes: Option<u64>,
    /// Processes of this machine.
    processes: u64,
}

/// When a sandbox was looked at last, and the CPU time that it had used by then.
type Looks = BTreeMap<Id, (Instant, Duration)>;

/// Shows what sandboxes use, every second.
///
/// # Errors
///
/// If a sandbox that was named does not run.
pub(in crate::cli) fn stats(args: &StatsArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let registry = Registry::open_default()?;
    let as_json = global.json || args.format == ListFormat::Json;
    let is_live = !as_json && !args.no_stream && std::io::stdout().is_terminal();
    let mut looks = Looks::new();
    let mut is_first = true;
    loop {
        let lines = measure(&registry, args, &mut looks, is_first)?;
        if is_first && !lines.is_empty() {
            is_first = false;
            thread::sleep(FIRST_INTERVAL);
            continue;
        }
        // Those that were named have ended.
        if lines.is_empty() && !args.sandboxes.is_empty() {
            return Ok(0);
        }
        is_first = false;
        match (as_json, args.no_stream) {
            (true, _) => print_json_line(&lines)?,
            (false, _) if is_live => print(&format!("{CLEAR}{}", table(&lines)))?,
            (false, _) => print(&table(&lines))?,
        }
        if args.no_stream {
            return Ok(0);
        }
        thread::sleep(INTERVAL);
    }
}

/// Looks at those that were named, or at all that run. One that was named has to run at first.
fn measure(
    registry: &Registry,
    args: &StatsArgs,
    looks: &mut Looks,
    is_first: bool,
) -> Result<Vec<Line>, Problem> {
    let is_named = !args.sandboxes.is_empty();
    let sandboxes = if is_named {
        let found = args
            .sandboxes
            .iter()
            .map(|name| Detached::find(registry, name));
        found
            .filter(|found| is_first || found.is_ok())
            .collect::<Result<Vec<_>, _>>()?
    } else {
        registry.list()?.into_iter().map(Detached::from).collect()
    };
    let mut lines = Vec::new();
    for sandbox in sandboxes {
        match look(&sandbox, looks) {
            Ok(line) => lines.push(line),
            Err(error) if is_named && is_first => return Err(of_sandbox(error.into(), &sandbox)),
            // It has ended meanwhile.
            Err(_) => {}
        }
    }
    lines.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(lines)
}

fn look(sandbox: &Detached, looks: &mut Looks) -> Result<Line, DetachedError> {
    let record = sandbox.entry().read()?;
    let stats = sandbox.stats()?;
    let now = Instant::now();
    let cpu = stats.cpu();
    let last = cpu.and_then(|cpu| looks.insert(record.id.clone(), (now, cpu)));
    let tier = record.place.map(|place| place.tier);
    let percent = last.zip(cpu).and_then(|((then, before), cpu)| {
        let elapsed = now.duration_since(then).as_secs_f64();
        let used = cpu.saturating_sub(before).as_secs_f64();
        (elapsed > 0.0).then(|| 100.0 * used / elapsed)
    });
    Ok(Line::new(record.id, record.name, tier, percent, &stats))
}

impl Line {
    fn new(
        id: Id,
        name: Name,
        tier: Option<Tier>,
        cpu_percent: Option<f64>,
        stats: &Stats,
    ) -> Self {
        Self {
            id,
            name,
            tier,
            cpu_percent,
            cpu_ms: stats.cpu().map(milliseconds),
            memory_bytes: stats.memory_bytes(),
            memory_limit_bytes: stats.inside.and_then(|inside| inside.memory_limit_bytes),
            read_bytes: stats.read_bytes(),
            written_bytes: stats.written_bytes(),
            processes: stats.processes(),
            counted_by: stats.inside.map(|inside| inside.counted_by.into()),
            host: stats.host.map(HostLine::from),
        }
    }
}

impl From<CountedBy> for Counter {
    fn from(by: CountedBy) -> Self {
        match by {
            CountedBy::Kernel => Self::Kernel,
            CountedBy::Cgroup => Self::Cgroup,
            CountedBy::Processes => Self::Processes,
        }
    }
}

impl From<HostUsage> for HostLine {
    fn from(usage: HostUsage) -> Self {
        Self {
            cpu_ms: milliseconds(usage.cpu),
            overhead_cpu_ms: usage.overhead_cpu.map(milliseconds),
            memory_bytes: usage.memory_bytes,
            read_bytes: usage.read_bytes,
            written_bytes: usage.written_bytes,
            processes: usage.processes,
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn table(lines: &[Line]) -> String {
    let mut text = format!(
        "{:<12}  {:<20}  {:<7}  {:>7}  {:>10}  {:>10}  {:>5}  {:>10}  {:>10}  {:>10}  {:>5}\n",
        "ID", "NAME", "TIER", "CPU", "USED", "LIMIT", "", "ON HOST", "READ", "WRITTEN", "PIDS"
    );
    let bytes = |count: Option<u64>| shown(count.map(|count| HumanBytes(count).to_string()));
    for line in lines {
        let share = line.memory_bytes.zip(line.memory_limit_bytes);
        let share = share.and_then(|(used, limit)| used.saturating_mul(100).checked_div(limit));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<12}  {:<20}  {:<7}  {:>7}  {:>10}  {:>10}  {:>5}  {:>10}  {:>10}  {:>10}  {:>5}",
            line.id,
            line.name,
            shown(line.tier),
            shown(line.cpu_percent.map(|percent| format!("{percent:.1}%"))),
            bytes(line.memory_bytes),
            bytes(line.memory_limit_bytes),
            shown(share.map(|share| format!("{share}%"))),
            bytes(line.host.as_ref().map(|host| host.memory_bytes)),
            bytes(line.read_bytes),
            bytes(line.written_bytes),
            shown(line.processes),
        );
    }
    text
}

fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Shows what runs in a sandbox.
///
/// # Errors
///
/// If it does not run, or has no `ps`.
pub(in crate::cli) fn top(args: &TopArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let sandbox = Detached::find(&Registry::open_default()?, &args.sandbox)?;
    list_processes(&sandbox, global).map_err(|problem| of_sandbox(problem, &sandbox))
}

fn list_processes(sandbox: &Detached, global: GlobalArgs) -> Result<u8, Problem> {
    let place = sandbox.entry().read()?.place;
    let is_machine = place.is_some_and(|place| place.tier == Tier::Microvm);
    // Those of a kernel of its own are not what runs in it (kthreadd is the second process).
    let which: &[&str] = match is_machine {
        true => &["-N", "-p", "2", "--ppid", "2"],
        false => &["-e"],
    };
    let columns = ["-o", "pid,ppid,user,stat,pcpu,rss,etime,args"];
    let words = [&["ps"], which, &columns].concat();
    let exec = sandbox.exec(ExecRequest::new(words))?;
    let output = exec
        .output(b"", MOST)
        .map_err(|error| Problem::from(sandbox.explain(error)))?;
    if output.report.exit_code() != 0 {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or_default();
        return Err(Problem {
            hint: Some("it needs the `ps` of procps in the sandbox".to_owned()),
            ..Problem::new(
                ErrorKind::GuestSystem,
                format!("`ps` in the sandbox: {said}"),
            )
        });
    }
    let text = String::from_utf8_lossy(&output.stdout);
    if global.json {
        print_json(&text.lines().filter_map(Process::of).collect::<Vec<_>>())?;
    } else if std::io::stdout().is_terminal() {
        print(&legible::lines(&text))?;
    } else {
        print(&text)?;
    }
    Ok(0)
}

/// A process in a sandbox.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Process {
    /// Its number there.
    pid: u32,
    /// Its parent's.
    ppid: u32,
    /// Whose it is.
    user: String,
    /// Its state, as ps(1) tells it.
    state: String,
    /// What it has taken of one CPU while it lived.
    cpu_percent: f64,
    /// The memory that it has of its own.
    memory_bytes: u64,
    /// How long it has lived: `[[DD-]hh:]mm:ss`.
    elapsed: String,
    /// Program and arguments, with spaces between.
    command: String,
}

impl Process {
    /// What a line of `ps` says.
    fn of(line: &str) -> Option<Self> {
        let mut rest = line.trim_start();
        let mut field = || {
            let (field, after) = rest.split_once(char::is_whitespace)?;
            rest = after.trim_start();
            Some(field)
        };
        let process = Self {
            pid: field()?.parse().ok()?,
            ppid: field()?.parse().ok()?,
            user: field()?.to_owned(),
            state: field()?.to_owned(),
            cpu_percent: field()?.parse().ok()?,
            memory_bytes: field()?.parse::<u64>().ok()?.saturating_mul(1024),
            elapsed: field()?.to_owned(),
            command: String::new(),
        };
        Some(Self {
            command: rest.to_owned(),
            ..process
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_tells_is_no_zero() {
        let stats = Stats {
            inside: None,
            host: None,
        };
        let id: Id = "0123456789ab".parse().unwrap();
        let name: Name = "a".parse().unwrap();
        let line = Line::new(id, name, Some(Tier::Docker), None, &stats);
        let json = serde_json::to_value(&line).unwrap();
        assert!(
            json["memory_bytes"].is_null() && json["host"].is_null(),
            "{json}"
        );
        let text = table(&[line]);
        assert_eq!(
            text.lines().nth(1).unwrap().matches(" -").count(),
            8,
            "{text}"
        );
    }

    #[test]
    fn what_ps_says_is_read_by_columns() {
        let header = "    PID    PPID USER     STAT %CPU   RSS     ELAPSED COMMAND";
        assert_eq!(Process::of(header), None);
        let line = "      7       1 sandbox  S     0.5   100       00:03 sleep  1 2";
        let expected = Process {
            pid: 7,
            ppid: 1,
            user: "sandbox".to_owned(),
            state: "S".to_owned(),
            cpu_percent: 0.5,
            memory_bytes: 102_400,
            elapsed: "00:03".to_owned(),
            command: "sleep  1 2".to_owned(),
        };
        assert_eq!(Process::of(line), Some(expected));
    }
}
