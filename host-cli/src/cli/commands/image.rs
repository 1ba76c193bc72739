//! `sovereign image`: building, listing, checking and removing images.

use std::fmt::Write;

use indicatif::HumanBytes;
use sandbox_image::progress::Step;
use sandbox_image::{BuildError, BuildOptions, Store, StoreError, Summary};
use serde::Serialize;

use crate::cli::args::{BuildArgs, GlobalArgs, ImageAction, ImageArgs, NameArgs, NamesArgs};
use crate::cli::progress;
use crate::cli::report::{Failure, print, print_json};
use crate::installation::Program;

/// Does what is to be done with images.
///
/// # Errors
///
/// If it cannot be done.
pub(in crate::cli) fn image(args: ImageArgs, global: GlobalArgs) -> Result<u8, Failure> {
    let store = Store::open_default()?;
    match args.action {
        ImageAction::Build(args) => build(&store, args, global),
        ImageAction::Ls => list(&store, global),
        ImageAction::Inspect(args) => inspect(&store, &args),
        ImageAction::Rm(args) => remove(&store, &args, global),
        ImageAction::Prune => prune(&store, global),
        ImageAction::Verify(args) => verify(&store, &args, global),
    }
    .map(|()| 0)
}

/// What `build` prints with `--json`.
#[derive(Debug, Serialize)]
struct Built<'a> {
    name: &'a str,
    id: &'a str,
}

fn build(store: &Store, args: BuildArgs, global: GlobalArgs) -> Result<(), Failure> {
    let agent = match args.agent {
        Some(path) => path,
        None => Program::Agent.find().map_err(|missing| Failure {
            hint: Some(missing.hint()),
            ..Failure::of("program-missing", &missing)
        })?,
    };
    let options = BuildOptions {
        name: args.name,
        agent,
        kernel: args.kernel,
        modules: args.modules,
        rootfs: args.rootfs,
        force: args.force,
    };
    let progress = progress::for_user(global);
    let image = sandbox_image::build(store, &options, progress.as_ref())?;
    if global.json {
        print_json(&Built {
            name: &image.name,
            id: &image.id,
        })
    } else if global.quiet {
        Ok(())
    } else {
        print(&format!("image {} is ready\n", image.name))
    }
}

fn list(store: &Store, global: GlobalArgs) -> Result<(), Failure> {
    let images = store.list()?;
    if global.json {
        print_json(&images)
    } else {
        print(&table(&images))
    }
}

fn table(images: &[Summary]) -> String {
    let mut text = String::from(
        "NAME              ID            SIZE        CREATED               CONTENTS\n",
    );
    for image in images {
        let id: String = image.id.iter().flat_map(|id| id.chars().take(12)).collect();
        let size = HumanBytes(image.bytes).to_string();
        let (created, contents) = match (&image.manifest, &image.problem) {
            (Some(manifest), _) => {
                let contents = manifest.rootfs.contents.as_ref();
                let contents = contents.map_or_else(
                    || "a root file system of one's own".to_owned(),
                    |contents| format!("{}, Python {}", contents.system, contents.python),
                );
                (manifest.created.as_str(), contents)
            }
            (None, problem) => (
                "",
                format!("damaged: {}", problem.as_deref().unwrap_or("?")),
            ),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<16}  {id:<12}  {size:<10}  {created:<20}  {contents}",
            image.name
        );
    }
    text
}

fn inspect(store: &Store, args: &NameArgs) -> Result<(), Failure> {
    print_json(&store.inspect(&args.name)?)
}

/// What `rm` and `prune` print with `--json`.
#[derive(Debug, Serialize)]
struct Freed {
    removed: Vec<String>,
    freed_bytes: u64,
}

fn remove(store: &Store, args: &NamesArgs, global: GlobalArgs) -> Result<(), Failure> {
    let mut freed_bytes = 0;
    for name in &args.names {
        freed_bytes += store.remove(name)?;
    }
    tell_freed(
        Freed {
            removed: args.names.clone(),
            freed_bytes,
        },
        global,
    )
}

fn prune(store: &Store, global: GlobalArgs) -> Result<(), Failure> {
    tell_freed(
        Freed {
            removed: Vec::new(),
            freed_bytes: store.prune()?,
        },
        global,
    )
}

fn tell_freed(freed: Freed, global: GlobalArgs) -> Result<(), Failure> {
    if global.json {
        return print_json(&freed);
    }
    if global.quiet {
        return Ok(());
    }
    let mut text = String::new();
    for name in &freed.removed {
        let _ = writeln!(text, "removed {name}");
    }
    let _ = writeln!(text, "{} freed", HumanBytes(freed.freed_bytes));
    print(&text)
}

/// What `verify` prints with `--json`.
#[derive(Debug, Serialize)]
struct Verified<'a> {
    name: &'a str,
    id: &'a str,
    intact: bool,
}

fn verify(store: &Store, args: &NameArgs, global: GlobalArgs) -> Result<(), Failure> {
    let progress = progress::for_user(global);
    let step = Step::begin(
        progress.as_ref(),
        &format!("hashing the files of {}", args.name),
    );
    let image = store.verify(&args.name)?;
    step.done();
    if global.json {
        print_json(&Verified {
            name: &image.name,
            id: &image.id,
            intact: true,
        })
    } else if global.quiet {
        Ok(())
    } else {
        print(&format!("{}: every file is what was stored\n", image.name))
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Store(error) => error.into(),
            error => Self::of("image-build", &error),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::NoSuchImage { .. } => "no-image",
            StoreError::BadName { .. } => "usage",
            StoreError::Corrupt { .. } | StoreError::BadManifest { .. } => "image-damaged",
            StoreError::NoSpace { .. } => "no-space",
            _ => "image",
        };
        Self::of(code, &error)
    }
}
