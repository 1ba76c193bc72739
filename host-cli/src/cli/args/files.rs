//! The commands for files of sandboxes: `cp` and `fs`.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::values::parse_duration;

/// Copy files into sandboxes, out of them and between them
#[derive(Debug, Args)]
#[command(
    after_long_help = CP_EXAMPLES,
    override_usage = "sovereign cp [OPTIONS] SRC DST"
)]
pub struct CpArgs {
    /// Preserve numeric owners (needs root at the destination: -u root, or root here)
    #[arg(short, long)]
    pub archive: bool,

    /// Follow symbolic links
    #[arg(short = 'L', long)]
    pub follow_link: bool,

    /// Act as this user in the sandbox: with the rights of that user, who owns what is made
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,

    /// Give up after this time; the exit code is 124 then, and what was copied by then stays
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,

    /// What to copy: PATH, SANDBOX:PATH, or - for a tar stream from standard input
    #[arg(value_name = "SRC")]
    pub source: OsString,

    /// Where to: PATH, SANDBOX:PATH, or - for a tar stream to standard output
    #[arg(value_name = "DST")]
    pub target: OsString,
}

/// Look at the files of a running sandbox, and change them
#[derive(Debug, Args)]
#[command(after_help = "Paths begin at the user's home, unless they are absolute.")]
pub struct FsArgs {
    /// Act as this user in the sandbox: with the rights of that user, who owns what is made
    #[arg(short, long, value_name = "USER[:GROUP]", global = true)]
    pub user: Option<String>,

    /// Give up after this time, all paths together; the exit code is 124 then
    #[arg(long, value_name = "TIME", value_parser = parse_duration, global = true)]
    pub timeout: Option<Duration>,

    /// What to do.
    #[command(subcommand)]
    pub action: FsAction,
}

/// What to do with files.
#[derive(Debug, Subcommand)]
pub enum FsAction {
    /// Print what is in files
    #[command(
        after_help = "Examples:\n  sovereign fs cat work /etc/hostname\n  sovereign fs cat --offset 1000 --length 100 work big"
    )]
    Cat(CatArgs),
    /// Put standard input in a file's place, at once, when it has come whole
    #[command(
        after_help = "Examples:\n  sovereign fs write work notes.txt < notes.txt\n  echo 1 | sovereign fs write --mode 600 work secret"
    )]
    Write(WriteArgs),
    /// List what is in a folder
    #[command(
        after_help = "Of several folders, each entry is told with its folder's path.\n\nExamples:\n  sovereign fs ls work\n  sovereign fs ls work /tmp"
    )]
    Ls(FsLsArgs),
    /// Show what is known of files
    #[command(after_help = "Example:\n  sovereign fs stat work /etc/hostname")]
    Stat(PathsArgs),
    /// Make folders
    #[command(after_help = "Example:\n  sovereign fs mkdir -p work src/a/b")]
    Mkdir(MkdirArgs),
    /// Give a file another name, or another folder
    #[command(after_help = "Example:\n  sovereign fs mv work draft final")]
    Mv(MvArgs),
    /// Remove files
    #[command(after_help = "Example:\n  sovereign fs rm -r work build")]
    Rm(FsRmArgs),
    /// Find files by their names and by what they contain
    Find(FindArgs),
    /// Show what happens to files, until interrupted
    #[command(after_help = "Example:\n  sovereign fs watch -r work src")]
    Watch(WatchArgs),
}

/// Files of a sandbox.
#[derive(Debug, Args)]
pub struct PathsArgs {
    /// The sandbox's name or id
    #[arg(value_name = "SANDBOX", value_parser = parse_sandbox)]
    pub sandbox: String,
    /// Paths in it
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,
}

/// List what is in folders.
#[derive(Debug, Args)]
pub struct FsLsArgs {
    /// The sandbox's name or id
    #[arg(value_name = "SANDBOX", value_parser = parse_sandbox)]
    pub sandbox: String,
    /// Folders in it
    #[arg(value_name = "PATH", default_value = ".")]
    pub paths: Vec<OsString>,
}

/// Print what is in files.
#[derive(Debug, Args)]
pub struct CatArgs {
    /// Begin here, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub offset: u64,
    /// Print only this many bytes
    #[arg(long, value_name = "BYTES")]
    pub length: Option<u64>,
    /// Which files.
    #[command(flatten)]
    pub files: PathsArgs,
}

/// Put standard input in a file's place.
#[derive(Debug, Args)]
pub struct WriteArgs {
    /// Mode of the file [default: that of the file it replaces]
    #[arg(long, value_name = "OCTAL", value_parser = parse_mode)]
    pub mode: Option<u32>,
    /// The sandbox's name or id
    #[arg(value_name = "SANDBOX", value_parser = parse_sandbox)]
    pub sandbox: String,
    /// The file
    #[arg(value_name = "PATH")]
    pub path: OsString,
}

/// Make folders.
#[derive(Debug, Args)]
pub struct MkdirArgs {
    /// Create missing parents; no error if the folder exists
    #[arg(short, long)]
    pub parents: bool,
    /// Their mode
    #[arg(short, long, value_name = "OCTAL", value_parser = parse_mode)]
    pub mode: Option<u32>,
    /// Which folders.
    #[command(flatten)]
    pub files: PathsArgs,
}

/// Give a file another name.
#[derive(Debug, Args)]
pub struct MvArgs {
    /// The sandbox's name or id
    #[arg(value_name = "SANDBOX", value_parser = parse_sandbox)]
    pub sandbox: String,
    /// The file
    #[arg(value_name = "PATH")]
    pub path: OsString,
    /// Its new name, or a folder that is there
    #[arg(value_name = "NEW")]
    pub to: OsString,
}

/// Remove files.
#[derive(Debug, Args)]
pub struct FsRmArgs {
    /// Remove folders too, with all that is in them
    #[arg(short, long)]
    pub recursive: bool,
    /// Which files.
    #[command(flatten)]
    pub files: PathsArgs,
}

/// Find files.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sovereign fs find work src --name '*.{rs,toml}' --contains tokio"
)]
pub struct FindArgs {
    /// Find only files whose names match this pattern, or whose paths from the folder do if it contains
    /// a slash
    #[arg(long, value_name = "GLOB")]
    pub name: Option<OsString>,
    /// Find only files that contain this text
    #[arg(long, value_name = "TEXT")]
    pub contains: Option<OsString>,
    /// The sandbox's name or id
    #[arg(value_name = "SANDBOX", value_parser = parse_sandbox)]
    pub sandbox: String,
    /// Where to search
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: OsString,
}

/// Show what happens to files.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Include all subfolders
    #[arg(short, long)]
    pub recursive: bool,
    /// The sandbox's name or id
    #[arg(value_name = "SANDBOX", value_parser = parse_sandbox)]
    pub sandbox: String,
    /// A folder, or a file
    #[arg(value_name = "PATH")]
    pub path: OsString,
}

/// No sandbox has a name with a colon: whoever writes one thinks of `cp`.
fn parse_sandbox(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        None => Ok(text.to_owned()),
        Some((sandbox, path)) => {
            let path = if path.is_empty() { "PATH" } else { path };
            Err(format!("here they are two words: {sandbox} {path}"))
        }
    }
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| "a mode is octal, such as 644".to_owned())
}

const CP_EXAMPLES: &str = "\
A copy goes into DST if that is a folder, else it is called DST. SRC/. is what is in the folder SRC. Modes, times, links and holes are kept.

Copies belong to the user of the sandbox (-u), and here to you; with -a to the owners that the files had. Set-user-ID is not kept on the way out.

A file or a link that has the name of a copy is replaced; the link is not followed. A device, a pipe or a socket is refused: `sovereign fs cat work file > /dev/...` writes to it.

Examples:
  sovereign cp project work:                      # to the home of its user
  sovereign cp work:/var/log/. logs/
  sovereign cp work:data other:/tmp/data
  sovereign cp -a -u root /srv/data work:/srv     # with owners
  tar c src | sovereign cp - work:/home/sandbox
  sovereign cp work:src - | tar t";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::args::Cli;

    #[test]
    fn sandbox_and_path_in_one_word_are_told_how_to_be_written() {
        for (given, words) in [("work:/etc", "work /etc"), ("work:", "work PATH")] {
            for command in ["cat", "ls", "write", "mv", "find", "watch"] {
                let error = Cli::try_parse_from(["sovereign", "fs", command, given]).unwrap_err();
                let error = error.to_string();
                assert!(error.contains(words), "{command}: {error}");
            }
        }
    }
}
