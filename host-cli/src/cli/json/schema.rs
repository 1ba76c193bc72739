//! The published schemas, made from the types.
//!
//! `SOVEREIGN_RECORD=1 cargo test -p sovereign schema` writes them; without it, the test compares.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};

use super::{
    Change, Content, Done, Ended, Entry, FileTold, Identity, Inspected, Number, Removed, RunReport,
    Told, Written,
};
use crate::cli::args::Cli;
use crate::cli::commands::image::told::{ImageTold, Listed as ListedImage};
use crate::cli::commands::image::verify::Verified;
use crate::cli::commands::image::{Built, Freed};
use crate::cli::commands::{cp, doctor, generate, logs, ls, prune, usage};
use crate::cli::report::Failed;
use crate::error::ErrorKind;
use crate::registry::events::Event;

/// The variable that has them written.
const RECORD: &str = "SOVEREIGN_RECORD";

/// How a result comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Document,
    Lines,
}

/// A schema, and where what it describes is printed.
struct Published {
    name: &'static str,
    form: Form,
    /// The commands, with what makes them print this.
    printed_by: &'static [&'static str],
    schema: Schema,
}

fn published<T: JsonSchema>(
    name: &'static str,
    form: Form,
    printed_by: &'static [&'static str],
) -> Published {
    let generator = SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator();
    let mut schema = generator.into_root_schema_for::<T>();
    schema.insert("title".to_owned(), name.into());
    Published {
        name,
        form,
        printed_by,
        schema,
    }
}

fn all() -> Vec<Published> {
    use Form::{Document, Lines};
    vec![
        published::<Failed<'_>>("error", Document, &[]),
        published::<RunReport<'_>>("run", Document, &["run", "exec", "attach", "start -a"]),
        published::<Identity>("sandbox", Document, &["create", "rename", "run -d"]),
        published::<Number>("command", Document, &["exec -d"]),
        published::<Vec<Told<Identity>>>("start", Document, &["start"]),
        published::<Vec<Told<Ended>>>("end", Document, &["stop", "kill", "wait"]),
        published::<Vec<Told<Removed>>>("rm", Document, &["rm"]),
        published::<Vec<ls::Listed>>("ls", Document, &["ls"]),
        published::<Vec<Told<Inspected>>>("inspect", Document, &["inspect"]),
        published::<logs::LogLine<'_>>("logs", Lines, &["logs"]),
        published::<Vec<usage::Line>>("stats", Lines, &["stats"]),
        published::<Vec<usage::Process>>("top", Document, &["top"]),
        published::<Event>("events", Lines, &["events"]),
        published::<cp::Copied>("cp", Document, &["cp"]),
        published::<FileTold<Entry>>("fs-entry", Lines, &["fs ls", "fs stat", "fs find"]),
        published::<FileTold<Content>>("fs-content", Lines, &["fs cat"]),
        published::<FileTold<Written>>("fs-written", Lines, &["fs write"]),
        published::<FileTold<Done>>("fs-done", Lines, &["fs mkdir", "fs mv", "fs rm"]),
        published::<Change>("fs-change", Lines, &["fs watch"]),
        published::<doctor::Verdict<'_>>("doctor", Document, &["doctor"]),
        published::<Built<'_>>("image-build", Document, &["image build"]),
        published::<Vec<ListedImage>>("image-ls", Document, &["image ls"]),
        published::<ImageTold>("image-inspect", Document, &["image inspect"]),
        published::<Verified<'_>>("image-verify", Document, &["image verify"]),
        published::<Freed>("image-freed", Document, &["image rm", "image prune"]),
        published::<prune::Answer<'_>>("prune", Document, &["prune"]),
        published::<generate::Version>("version", Document, &["version"]),
    ]
}

/// Commands that print text for other programs, whatever is asked for.
const TEXT: [&str; 2] = ["completions", "man"];

#[test]
fn schemas_are_what_the_types_are() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json");
    let mut files: Vec<(PathBuf, String)> = all()
        .into_iter()
        .map(|it| {
            let text = serde_json::to_string_pretty(&it.schema).unwrap();
            (folder.join(format!("{}.schema.json", it.name)), text + "\n")
        })
        .collect();
    files.push((folder.join("README.md"), page()));
    let known: BTreeSet<_> = files.iter().map(|(path, _)| path.clone()).collect();
    if std::env::var_os(RECORD).is_some() {
        fs::create_dir_all(&folder).unwrap();
        for (path, text) in &files {
            fs::write(path, text).unwrap();
        }
    }
    for (path, text) in files {
        let there = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            there == text,
            "{} is not what the types are: {RECORD}=1 cargo test -p sovereign schema",
            path.display()
        );
    }
    for file in fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        assert!(known.contains(&path), "{} is of no type", path.display());
    }
}

/// Who reads them knows JSON, and need not know Rust.
#[test]
fn descriptions_do_not_speak_of_types() {
    for it in all() {
        let text = it.schema.as_value().to_string();
        for of_rust in ["[`", "::", "`None`", "`Some"] {
            assert!(!text.contains(of_rust), "{}: {of_rust}", it.name);
        }
    }
}

#[test]
fn every_command_has_a_schema() {
    let all = all();
    let described: BTreeSet<&str> = all
        .iter()
        .flat_map(|it| it.printed_by.iter().copied())
        .chain(TEXT)
        .collect();
    let mut cli = Cli::command();
    cli.build();
    for command in cli.get_subcommands().filter(|it| !it.is_hide_set()) {
        let inner: Vec<_> = command.get_subcommands().collect();
        let names = if inner.is_empty() {
            vec![command.get_name().to_owned()]
        } else {
            let full = |it: &&clap::Command| format!("{} {}", command.get_name(), it.get_name());
            inner.iter().map(full).collect()
        };
        for name in names.iter().filter(|name| !name.ends_with(" help")) {
            assert!(described.contains(name.as_str()), "`{name}` has no schema");
        }
    }
}

fn page() -> String {
    let mut text = INTRODUCTION.to_owned();
    text.push_str("| command | prints | schema |\n|---|---|---|\n");
    let mut rows: Vec<_> = all()
        .into_iter()
        .flat_map(|it| it.printed_by.iter().map(move |by| (*by, it.form, it.name)))
        .collect();
    rows.sort_unstable_by_key(|(by, ..)| *by);
    for (by, form, name) in rows {
        let form = match form {
            Form::Document => "a document",
            Form::Lines => "lines",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{by}` | {form} | [{name}]({name}.schema.json) |");
    }
    text.push_str(ERRORS);
    text.push_str("| code | meaning |\n|---|---|\n");
    for kind in ErrorKind::ALL {
        let _ = writeln!(text, "| `{kind}` | {} |", kind.meaning().trim());
    }
    text
}

const INTRODUCTION: &str = "\
# What `--json` prints

Every command but `completions` and `man`, which print text, takes `--json`. What it then prints on standard output is
described here by a JSON Schema (draft 2020-12), which is made from the program's own types: `cargo test` fails when one
changes without the other. Text for people (the tier that was taken, progress, warnings) goes to standard error, and `-q`
silences it.

- **A document** is one JSON value. **Lines** are one JSON value a line, each written as soon as it is known.
- A field that has nothing to say is `null`, unless its schema says that it may be missing. A reader should let fields
  pass that it does not know: a later release may add some, and takes none away.
- Moments are RFC 3339 in UTC; names of other units are in the field's name (`duration_ms`, `memory_bytes`).
- Bytes that are no UTF-8 are told in base64; a field beside them says which it is, `utf-8` or `base64`: `encoding`, or
  `stdout_encoding` and `stderr_encoding` of `run` and `exec`.
- Commands that act on several sandboxes or files go on when one of them fails, and tell each one's `error`.
- The exit code is the same with and without `--json`.
- `cp` to `-` writes the archive to standard output, and its result to standard error.

";

const ERRORS: &str = "
# Errors

A command that fails as a whole prints [error](error.schema.json): its `exit_code`, and the `error`. So does one that was
not understood (`usage`). `run` and `exec` print their own schema, whose `exit_code` and `error` are the same.

An error anywhere has the same form: `code` (a word of the list below), `message` (what happened, in one line), `hint`
(what to do about it, or `null`), `tier` (in which it happened, or that was asked for, or `null`), `exit_code`; where they
help, `console` (the newest lines of the guest's) and `passed_over`.

The list is closed, and the same as the library's `ErrorKind`; the codes of `passed_over` and of `doctor`, which say why a
tier cannot be had, are of it too.

";
