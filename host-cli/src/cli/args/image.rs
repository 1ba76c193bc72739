//! `sovereign image`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::values::named_tier_parser;
use crate::tier::Tier;

/// Build, list, check and remove sandbox images
#[derive(Debug, Args)]
#[command(arg_required_else_help = false)]
pub struct ImageArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: ImageAction,
}

/// What to do with images.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum ImageAction {
    /// Build an image: guest kernel, root file system, agent
    Build(BuildArgs),
    /// List the images
    #[command(visible_alias = "list")]
    #[command(after_help = "Example:\n  sovereign image ls")]
    Ls,
    /// Show what an image is made of
    #[command(after_help = "Example:\n  sovereign image inspect | jq .kernel.release")]
    Inspect(NameArgs),
    /// Remove images
    #[command(after_help = "Example:\n  sovereign image rm old")]
    Rm(NamesArgs),
    /// Remove files that belong to no image any more, and what builds have no more use for
    #[command(after_help = "Example:\n  sovereign image prune")]
    Prune,
    /// Hash every file of an image again, and check its contract in each tier
    Verify(VerifyArgs),
}

/// Show what an image is made of
#[derive(Debug, Args)]
pub struct NameArgs {
    /// The image
    #[arg(value_name = "NAME", default_value = sandbox_image::DEFAULT_IMAGE)]
    pub name: String,
}

/// Hash every file of an image again, and check its contract in each tier
#[derive(Debug, Args)]
#[command(after_help = VERIFY_HELP)]
pub struct VerifyArgs {
    /// The image
    #[arg(value_name = "NAME", default_value = sandbox_image::DEFAULT_IMAGE)]
    pub name: String,

    /// A tier to check it in, which has to be there; give it once for each [default: all that are
    /// there]
    #[arg(long = "tier", value_name = "TIER", value_parser = named_tier_parser())]
    pub tiers: Vec<Tier>,
}

const VERIFY_HELP: &str = "\
The contract is what commands rely on: T-APTS, Python and tools, the user, writable places, clock, random numbers, versions that agree. The exit code is 0 if nothing of it is broken, else 1.

Example:
  sovereign image verify --tier docker";

/// Remove images
#[derive(Debug, Args)]
pub struct NamesArgs {
    /// The images
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// Build an image: guest kernel, root file system, agent
#[derive(Debug, Args)]
#[command(after_help = BUILD_EXAMPLES)]
pub struct BuildArgs {
    /// The image's name
    #[arg(long, value_name = "NAME", default_value = sandbox_image::DEFAULT_IMAGE)]
    pub name: String,

    /// A guest kernel of your own: an ELF vmlinux with a PVH note, or a bzImage
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,

    /// A driver that such a kernel has as a module and needs to reach its disk and its host; give it
    /// once for each, in the order in which they are to be loaded
    #[arg(long = "module", value_name = "PATH", requires = "kernel")]
    pub modules: Vec<PathBuf>,

    /// A root file system (EROFS) of your own
    #[arg(long, value_name = "PATH")]
    pub rootfs: Option<PathBuf>,

    /// The agent's program [default: that of this installation]
    #[arg(long, value_name = "PATH")]
    pub agent: Option<PathBuf>,

    /// Build the root file system again, from the packages that the archive has now
    #[arg(long)]
    pub force: bool,
}

const BUILD_EXAMPLES: &str = "\
Examples:
  sovereign image build
  sovereign image build --name own --kernel vmlinuz --module virtio_mmio.ko

What an earlier build made of the same inputs is used again, so a second build takes seconds. An image that does not keep its contract (`sovereign image verify`) is not published: the one that had the name before stays.";
