//! `sovereign stats` and `top`: what sandboxes use, and what runs in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::time::{Duration, Instant};

use agent_protocol::message::ExecRequest;
use indicatif::HumanBytes;
use serde::Serialize;

use crate::cli::args::{GlobalArgs, StatsArgs, TopArgs};
use crate::cli::report::sandbox::of_sandbox;
use crate::cli::report::{print, print_json, print_json_line};
use crate::cli::signals::Signals;
use crate::detached::Detached;
use crate::error::{ErrorKind, Problem};
use crate::host::ProcessStat;
use crate::registry::record::Status;
use crate::registry::{Id, Name, Registry, State};

/// How often it is measured.
const INTERVAL: Duration = Duration::from_secs(1);

/// How much of a list of processes is shown.
const MOST: usize = 1 << 20;

/// What a sandbox uses of this machine.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Usage {
    /// Its id.
    id: Id,
    /// Its name.
    name: Name,
    /// Of one CPU, since the last measurement.
    cpu_percent: f64,
    /// CPU time so far.
    cpu_ms: u64,
    /// Memory that is taken from this machine.
    memory_bytes: u64,
    /// Read from disks so far.
    read_bytes: u64,
    /// Written to disks so far.
    written_bytes: u64,
    /// Processes of this machine; those in a virtual machine are not among them.
    processes: usize,
}

/// What processes have used so far.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    ticks: u64,
    resident: u64,
    read: u64,
    written: u64,
    processes: usize,
}

/// Shows what sandboxes use, every second.
///
/// # Errors
///
/// If a sandbox that was named does not run.
pub(in crate::cli) fn stats(args: &StatsArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let signals = Signals::install()?;
    let registry = Registry::open_default()?;
    let mut before: BTreeMap<Id, (Instant, u64)> = BTreeMap::new();
    loop {
        let first = before.is_empty();
        let usages = measure(&registry, args, &mut before)?;
        if first && !usages.is_empty() {
            // What a CPU does takes two looks.
            if signals.come_within(Duration::from_millis(200))? {
                return Ok(0);
            }
            continue;
        }
        if global.json {
            print_json_line(&usages)?;
        } else {
            print(&table(&usages))?;
        }
        if args.no_stream || signals.come_within(INTERVAL)? {
            return Ok(0);
        }
    }
}

fn measure(
    registry: &Registry,
    args: &StatsArgs,
    before: &mut BTreeMap<Id, (Instant, u64)>,
) -> Result<Vec<Usage>, Problem> {
    let named = !args.sandboxes.is_empty();
    let entries = if named {
        let found = args.sandboxes.iter().map(|wanted| registry.find(wanted));
        found.collect::<Result<Vec<_>, _>>()?
    } else {
        registry.list()?
    };
    let parents = parents();
    let mut usages = Vec::new();
    for entry in entries {
        let Ok(record) = entry.read() else { continue };
        let process = match record.status {
            Status::Running { process, .. } if entry.state(&record) == State::Running => process,
            _ if named => {
                let text = format!("sandbox {} is not running", record.name);
                return Err(Problem::new(ErrorKind::NotRunning, text));
            }
            _ => continue,
        };
        let spent =
            tree(process, &parents)
                .into_iter()
                .map(spent_by)
                .fold(Spent::default(), |sum, one| Spent {
                    ticks: sum.ticks + one.ticks,
                    resident: sum.resident + one.resident,
                    read: sum.read + one.read,
                    written: sum.written + one.written,
                    processes: sum.processes + one.processes,
                });
        let now = Instant::now();
        let ms = spent.ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second().max(1);
        let last = before.insert(record.id.clone(), (now, ms));
        let (since, used) = last.map_or((now, 0), |(then, used)| (then, ms.saturating_sub(used)));
        let elapsed = now.duration_since(since).as_secs_f64();
        let used = Duration::from_millis(used).as_secs_f64();
        usages.push(Usage {
            id: record.id,
            name: record.name,
            cpu_percent: if elapsed > 0.0 {
                100.0 * used / elapsed
            } else {
                0.0
            },
            cpu_ms: ms,
            memory_bytes: spent.resident,
            read_bytes: spent.read,
            written_bytes: spent.written,
            processes: spent.processes,
        });
    }
    usages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(usages)
}

fn table(usages: &[Usage]) -> String {
    let mut text = format!(
        "{:<12}  {:<20}  {:>7}  {:>12}  {:>12}  {:>12}  {:>5}\n",
        "ID", "NAME", "CPU", "MEMORY", "READ", "WRITTEN", "PIDS"
    );
    for usage in usages {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<12}  {:<20}  {:>6.1}%  {:>12}  {:>12}  {:>12}  {:>5}",
            usage.id,
            usage.name,
            usage.cpu_percent,
            HumanBytes(usage.memory_bytes).to_string(),
            HumanBytes(usage.read_bytes).to_string(),
            HumanBytes(usage.written_bytes).to_string(),
            usage.processes
        );
    }
    text
}

/// Every process of this machine and its parent.
fn parents() -> Vec<(i32, i32)> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok());
    let parent = |pid: i32| stat(pid)?.number(4)?.try_into().ok();
    pids.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

/// A process and all that came of it.
fn tree(root: i32, parents: &[(i32, i32)]) -> BTreeSet<i32> {
    let mut tree = BTreeSet::from([root]);
    loop {
        let before = tree.len();
        let children = parents.iter().filter(|(_, parent)| tree.contains(parent));
        let children: Vec<_> = children.map(|(pid, _)| *pid).collect();
        tree.extend(children);
        if tree.len() == before {
            return tree;
        }
    }
}

fn stat(pid: i32) -> Option<ProcessStat> {
    ProcessStat::read(u32::try_from(pid).ok()?)
}

fn spent_by(pid: i32) -> Spent {
    let Some(stat) = stat(pid) else {
        return Spent::default();
    };
    let field = |number| stat.number(number).unwrap_or(0);
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let counted = |name: &str| -> u64 {
        let line = io.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    Spent {
        ticks: field(14) + field(15),
        resident: field(24).saturating_mul(page),
        read: counted("read_bytes:"),
        written: counted("write_bytes:"),
        processes: 1,
    }
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
    let request = ExecRequest::new(["ps", "-eo", "pid,ppid,user,stat,pcpu,rss,etime,args"]);
    let exec = sandbox.exec(request)?;
    let output = exec
        .output(b"", MOST)
        .map_err(|error| Problem::from(sandbox.explain(error)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if global.json {
        print_json(&text.lines().filter_map(Process::of).collect::<Vec<_>>())?;
    } else {
        print(&text)?;
    }
    Ok(output.report.exit_code())
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
    fn a_process_and_its_children_are_counted_once() {
        let parents = [(2, 1), (3, 2), (4, 3), (5, 1), (1, 0)];
        assert_eq!(tree(2, &parents), BTreeSet::from([2, 3, 4]));
    }

    #[test]
    fn this_process_has_memory() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let spent = spent_by(pid);
        assert!(spent.resident > 100_000, "{spent:?}");
        assert!(parents().iter().any(|(known, _)| *known == pid));
        assert_eq!(spent_by(-1).processes, 0);
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
