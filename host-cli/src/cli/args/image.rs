//! `sovereign image`.

use clap::{Args, Subcommand};

/// Build, list, check and remove sandbox images.
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
    /// List the images
    #[command(visible_alias = "list")]
    Ls,
    /// Show what an image is made of
    Inspect(NameArgs),
    /// Remove images
    Rm(NamesArgs),
    /// Remove files that belong to no image any more
    Prune,
    /// Hash every file of an image again
    Verify(NameArgs),
}

/// The name of an image.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// The image
    #[arg(value_name = "NAME", default_value = sandbox_image::DEFAULT_IMAGE)]
    pub name: String,
}

/// Names of images.
#[derive(Debug, Args)]
pub struct NamesArgs {
    /// The images
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}
