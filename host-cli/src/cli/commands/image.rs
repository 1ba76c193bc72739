//! `sovereign image`: building, listing, checking and removing images.

pub(in crate::cli) mod told;
pub(in crate::cli) mod verify;

use std::fmt::Write;

use indicatif::HumanBytes;
use sandbox_image::cache::{Cache, CacheError};
use sandbox_image::{BuildError, BuildOptions, Store, StoreError, Summary};
use serde::Serialize;

use self::told::{ImageTold, Listed};
use crate::cli::args::{BuildArgs, GlobalArgs, ImageAction, ImageArgs, NameArgs, NamesArgs};
use crate::cli::progress;
use crate::cli::report::{print, print_json, say};
use crate::contract::{self, Report, Verdict};
use crate::engine::Engine;
use crate::error::{ErrorKind, Problem};
use crate::installation::Program;
use crate::tier::missing::similar_image;

/// Does what is to be done with images.
///
/// # Errors
///
/// If it cannot be done.
pub(in crate::cli) fn image(args: ImageArgs, global: GlobalArgs) -> Result<u8, Problem> {
    let store = Store::open_default()?;
    match args.action {
        ImageAction::Build(args) => build(args, global),
        ImageAction::Ls => list(&store, global),
        ImageAction::Inspect(args) => inspect(&store, &args),
        ImageAction::Rm(args) => remove(&store, &args, global),
        ImageAction::Prune => prune(&store, global),
        ImageAction::Verify(args) => return verify::verify(&store, &args, global),
    }
    .map(|()| 0)
}

/// An image that was built.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Built<'a> {
    /// Its name.
    name: &'a str,
    /// Its id: the SHA-256 of its manifest.
    id: &'a str,
    /// What was checked of it; empty if the image is what it was.
    checks: &'a Report,
}

fn build(args: BuildArgs, global: GlobalArgs) -> Result<(), Problem> {
    let agent = match args.agent {
        Some(path) => path,
        None => Program::Agent.find().map_err(|missing| Problem {
            hint: Some(missing.hint()),
            ..Problem::of(ErrorKind::ProgramMissing, &missing)
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
    let (image, checks) = contract::build(Engine::new(), &options, progress.as_ref())?;
    if global.json {
        return print_json(&Built {
            name: &image.name,
            id: &image.id,
            checks: &checks,
        });
    }
    if global.quiet {
        return Ok(());
    }
    for row in &checks.rows {
        if let (Some(tier), Verdict::Skipped) = (row.tier, row.judgement.result) {
            say(&format!(
                "not checked in {tier}: {}\n",
                row.judgement.detail
            ));
        }
    }
    print(&format!("image {} is ready\n", image.name))
}

fn list(store: &Store, global: GlobalArgs) -> Result<(), Problem> {
    let images = store.list()?;
    if global.json {
        print_json(&images.iter().map(Listed::of).collect::<Vec<_>>())
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

fn inspect(store: &Store, args: &NameArgs) -> Result<(), Problem> {
    print_json(&ImageTold::of(&store.inspect(&args.name)?))
}

/// What was removed.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Freed {
    /// Images that were named.
    removed: Vec<String>,
    /// The room that is free now.
    freed_bytes: u64,
}

fn remove(store: &Store, args: &NamesArgs, global: GlobalArgs) -> Result<(), Problem> {
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

fn prune(store: &Store, global: GlobalArgs) -> Result<(), Problem> {
    tell_freed(
        Freed {
            removed: Vec::new(),
            freed_bytes: store.prune()? + Cache::open_default()?.prune()?,
        },
        global,
    )
}

fn tell_freed(freed: Freed, global: GlobalArgs) -> Result<(), Problem> {
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

impl From<BuildError> for Problem {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Store(error) => error.into(),
            BuildError::Refused(_) => Self {
                hint: Some("the image of that name, if there is one, is what it was".to_owned()),
                ..Self::of(ErrorKind::ImageBroken, &error)
            },
            error => {
                let variables = "SOVEREIGN_CACHE_DIR and TMPDIR";
                Self::of_keeping(ErrorKind::ImageBuild, &error, variables)
            }
        }
    }
}

impl From<CacheError> for Problem {
    fn from(error: CacheError) -> Self {
        Self::of_keeping(ErrorKind::Cache, &error, "SOVEREIGN_CACHE_DIR")
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::NoSuchImage { .. } => ErrorKind::NoImage,
            StoreError::BadName { .. } => ErrorKind::Usage,
            StoreError::Corrupt { .. } | StoreError::BadManifest { .. } => ErrorKind::ImageDamaged,
            StoreError::NoSpace { .. } => ErrorKind::NoSpace,
            _ => ErrorKind::Image,
        };
        let problem = Self::of_keeping(code, &error, "SOVEREIGN_DATA_DIR");
        let similar = similar_image(&error).map(|name| format!("did you mean `{name}`?"));
        Self {
            hint: similar.or(problem.hint),
            ..problem
        }
    }
}
