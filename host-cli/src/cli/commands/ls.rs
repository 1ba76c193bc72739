//! `sovereign ls` and `inspect`: what is known of sandboxes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::life::{each, each_told};
use crate::cli::args::{GlobalArgs, ListFormat, LsArgs, SandboxesArgs};
use crate::cli::json::Inspected;
use crate::cli::legible;
use crate::cli::report::{print, print_json, say};
use crate::detached::Detached;
use crate::error::{ErrorKind, Problem, chain};
use crate::name::similar;
use crate::registry::record::{Record, Status, Timestamp};
use crate::registry::{Entry, Id, Name, Registry, RegistryError, State};
use crate::supervisor::About;
use crate::tier::{Isolation, Tier};

/// How much of a command is shown in the table, in characters.
const COMMAND: usize = 40;

/// A sandbox in the list.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Listed {
    /// Its id.
    id: Id,
    /// Its name.
    name: Name,
    /// How it is with it.
    state: State,
    /// Its tier, once it has been started.
    tier: Option<Tier>,
    /// The isolation that it reached.
    isolation: Option<Isolation>,
    /// What it runs on.
    image: String,
    /// What runs in it; what is no text is replaced.
    command: Option<Vec<String>>,
    /// When it was made.
    created: Timestamp,
    /// Since when it runs, or when it ended.
    since: Option<Timestamp>,
    /// The exit code that stands for how it ended.
    exit_code: Option<u8>,
    /// What its user's programs find it by.
    labels: BTreeMap<String, String>,
}

/// Lists sandboxes.
///
/// # Errors
///
/// If they cannot be read, or there is no such filter.
pub(in crate::cli) fn ls(args: &LsArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let filters = Filters::new(&args.filters)?;
    let asks_for_state = args.filters.iter().any(|(key, _)| key == "status");
    let mut listed = Vec::new();
    for entry in Registry::open_default()?.list()? {
        let record = match entry.read() {
            Ok(record) => record,
            // Removed meanwhile.
            Err(RegistryError::NoSuchSandbox { .. }) => continue,
            Err(error) => {
                say(&format!("sovereign: {}\n", chain(&error)));
                continue;
            }
        };
        let it = Listed::of(&entry, record);
        let is_there = matches!(it.state, State::Running | State::Starting);
        if (args.all || asks_for_state || is_there) && filters.let_through(&it) {
            listed.push(it);
        }
    }
    listed.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
    if global.json || args.format == ListFormat::Json {
        print_json(&listed)?;
    } else if global.quiet {
        print(
            &listed
                .iter()
                .fold(String::new(), |text, it| text + it.id.as_str() + "\n"),
        )?;
    } else {
        print(&table(&listed))?;
    }
    Ok(0)
}

impl Listed {
    fn of(entry: &Entry, record: Record) -> Self {
        let state = entry.state(&record);
        let (since, exit_code) = match &record.status {
            Status::Created => (None, None),
            Status::Running { since, .. } => (Some(*since), None),
            Status::Ended { at, ending, .. } => (Some(*at), Some(ending.exit_code())),
            Status::Failed { at, problem } => (Some(*at), Some(problem.exit_code)),
        };
        Self {
            state,
            since,
            exit_code,
            id: record.id,
            name: record.name,
            tier: record.place.as_ref().map(|place| place.tier),
            isolation: record.place.as_ref().map(|place| place.isolation),
            image: record.plan.spec.image.name,
            command: record
                .plan
                .command
                .as_ref()
                .map(|request| About::whole(request).argv),
            created: record.created,
            labels: record.plan.labels,
        }
    }

    /// What it is, for people: `running 3m`, `exited (0) 2h ago`.
    fn condition(&self) -> String {
        let age = self
            .since
            .map(|since| brief(since.age()))
            .unwrap_or_default();
        match (self.state, self.exit_code) {
            (State::Created, _) => "created".to_owned(),
            (State::Starting, _) => "starting".to_owned(),
            (State::Running, _) => format!("running {age}"),
            (State::Exited, Some(code)) => format!("exited ({code}) {age} ago"),
            (State::Exited, None) => format!("exited {age} ago"),
            (State::Failed, _) => format!("failed {age} ago"),
            (State::Dead, _) => "dead".to_owned(),
        }
    }
}

fn table(listed: &[Listed]) -> String {
    let width = listed.iter().map(|it| it.name.as_str().len()).max();
    let width = width.unwrap_or(0).max(4);
    let mut text = format!(
        "{:<12}  {:<width$}  {:<12}  {:<20}  {:<8}  COMMAND\n",
        "ID", "NAME", "TIER", "STATE", "CREATED"
    );
    for it in listed {
        let tier = it.tier.map(Tier::name).unwrap_or_default();
        let command = it
            .command
            .as_ref()
            .map(|argv| legible::shortened(&argv.join(" "), COMMAND));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<12}  {:<width$}  {:<12}  {:<20}  {:<8}  {}",
            it.id,
            it.name,
            tier,
            it.condition(),
            brief(it.created.age()),
            command.unwrap_or_default()
        );
    }
    text
}

/// A duration in one unit.
fn brief(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// What has to hold for those that are listed.
#[derive(Debug)]
struct Filters<'a>(BTreeMap<&'a str, Vec<&'a str>>);

impl<'a> Filters<'a> {
    fn new(filters: &'a [(String, String)]) -> Result<Self, Problem> {
        const KNOWN: [&str; 5] = ["name", "id", "label", "tier", "status"];
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (key, value) in filters {
            if !KNOWN.contains(&key.as_str()) {
                let text = format!("--filter {key}: there are {}", KNOWN.join(", "));
                return Err(Problem::new(ErrorKind::Usage, text));
            }
            let known: Option<Vec<&str>> = match key.as_str() {
                "status" => Some(State::ALL.map(State::name).into()),
                "tier" => Some(Tier::ALL.map(Tier::name).into()),
                _ => None,
            };
            if let Some(known) = known.filter(|known| !known.contains(&value.as_str())) {
                let text = format!("--filter {key}={value}: there are {}", known.join(", "));
                let similar = similar(value, known);
                return Err(Problem {
                    hint: similar.map(|similar| format!("did you mean {key}={similar}?")),
                    ..Problem::new(ErrorKind::Usage, text)
                });
            }
            all.entry(key.as_str()).or_default().push(value.as_str());
        }
        Ok(Self(all))
    }

    fn let_through(&self, it: &Listed) -> bool {
        self.0.iter().all(|(key, values)| {
            values.iter().any(|value| match *key {
                "name" => it.name.as_str().contains(value),
                "id" => it.id.as_str().starts_with(value),
                "tier" => it.tier.is_some_and(|tier| tier.name() == *value),
                "status" => it.state.name() == *value,
                _ => match value.split_once('=') {
                    Some((key, value)) => it.labels.get(key).is_some_and(|have| have == value),
                    None => it.labels.contains_key(*value),
                },
            })
        })
    }
}

/// Shows all that is known of sandboxes, as a JSON array.
///
/// # Errors
///
/// The last that one of them met.
pub(in crate::cli) fn inspect(args: &SandboxesArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let registry = Registry::open_default()?;
    let look = |wanted: &str| -> Result<Inspected, Problem> {
        let sandbox = Detached::find(&registry, wanted)?;
        let record = sandbox.entry().read()?;
        let state = sandbox.entry().state(&record);
        // All else is known without its supervisor.
        let commands = sandbox.commands().unwrap_or_else(|error| {
            say(&format!("sovereign: {error}\n"));
            Vec::new()
        });
        let folder = sandbox.entry().folder();
        Ok(Inspected::of(record, state, commands, &folder))
    };
    if global.json {
        return each_told(&args.sandboxes, global, look, |_, _| Ok(()));
    }
    let mut all = Vec::new();
    let code = each(&args.sandboxes, |wanted| {
        all.push(look(wanted)?);
        Ok(())
    });
    print_json(&all)?;
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, state: State) -> Listed {
        Listed {
            id: Id::of([1, 2, 3, 4, 5, 6]),
            name: name.parse().unwrap(),
            state,
            tier: Some(Tier::Local),
            isolation: None,
            image: "sandbox".to_owned(),
            command: Some(vec!["echo".to_owned(), "a\nb".to_owned()]),
            created: Timestamp::now(),
            since: Some(Timestamp::now()),
            exit_code: (state == State::Exited).then_some(3),
            labels: BTreeMap::from([("job".to_owned(), "7".to_owned())]),
        }
    }

    #[test]
    fn filters_of_one_kind_are_alternatives_and_kinds_add_up() {
        let pass = |filters: &[(&str, &str)]| {
            let owned: Vec<_> = filters
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            let filters = Filters::new(&owned).unwrap();
            filters.let_through(&listed("web", State::Exited))
        };
        assert!(pass(&[]));
        assert!(pass(&[
            ("name", "we"),
            ("status", "running"),
            ("status", "exited")
        ]));
        assert!(pass(&[("label", "job"), ("label", "x")]));
        assert!(pass(&[("label", "job=7"), ("tier", "local")]));
        assert!(!pass(&[("label", "job=8")]));
        assert!(!pass(&[("name", "web"), ("tier", "docker")]));
        let unknown = [("colour".to_owned(), "red".to_owned())];
        assert!(Filters::new(&unknown).is_err());
    }

    #[test]
    fn the_table_is_one_line_each_and_says_how_it_ended() {
        let text = table(&[listed("web", State::Exited), listed("db", State::Running)]);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(
            text.contains("exited (3) 0s ago") && text.contains("running 0s"),
            "{text}"
        );
        assert!(text.contains("echo a\\nb"), "{text}");
    }
}
