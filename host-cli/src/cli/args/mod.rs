//! What was typed.

mod files;
mod image;
mod life;
mod limits;
mod run;
pub(crate) mod values;

use std::ffi::{OsStr, OsString};

use clap::error::ErrorKind as Misuse;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

pub use self::files::{
    CatArgs, CpArgs, FindArgs, FsAction, FsArgs, FsLsArgs, FsRmArgs, MkdirArgs, MvArgs, PathsArgs,
    WatchArgs, WriteArgs,
};
pub use self::image::{BuildArgs, ImageAction, ImageArgs, NameArgs, NamesArgs, VerifyArgs};
pub use self::life::{
    AttachArgs, CreateArgs, DetachKeys, EventsArgs, ExecCommandArgs, KillArgs, LifeArgs,
    ListFormat, LogsArgs, LsArgs, RenameArgs, RmArgs, SandboxesArgs, StartArgs, StatsArgs,
    StopArgs, TopArgs, WaitArgs,
};
pub use self::run::{ChoiceArgs, ExecArgs, RunArgs, SandboxArgs};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "sovereign",
    version,
    about = "Run untrusted code in the strongest sandbox that this machine really has",
    after_help = "`sovereign COMMAND --help`, or `sovereign help COMMAND`, shows a command's options and examples.",
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// `sovereign run` alone.
#[derive(Debug, Parser)]
struct RunCli {
    // First, so that there is nothing to be listed last yet: nobody reads this parser's help.
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    global: GlobalArgs,
}

impl Cli {
    /// Reads the command line.
    ///
    /// The parser knows all commands by name only until one is named, but even that costs a program
    /// that lives for milliseconds one of them; so `run`, typed first, has a parser of its own. What
    /// that one does not understand the other explains.
    ///
    /// # Errors
    ///
    /// If it makes no sense, or asks for help.
    pub fn read(args: &[OsString]) -> Result<Self, clap::Error> {
        if let [program, word, asked @ ..] = args
            && word == "help"
        {
            let help = OsStr::new("--help");
            let words = asked.iter().map(OsString::as_os_str).chain([help]);
            return Self::try_parse_from([program.as_os_str()].into_iter().chain(words));
        }
        let is_run = args.get(1).is_some_and(|word| word == "run");
        let run = is_run.then(|| RunCli::try_parse_from(args.iter().skip(1)));
        match run {
            Some(Ok(RunCli { global, run })) => Ok(Self {
                global,
                command: Command::Run(Box::new(run)),
            }),
            Some(Err(_)) | None => {
                Self::try_parse_from(args).map_err(|error| explained(error, args))
            }
        }
    }
}

/// A number below zero looks like a flag that there is not, and is told as one. Where it is the value of
/// a flag, that flag's reason is the better one.
fn explained(error: clap::Error, args: &[OsString]) -> clap::Error {
    if error.kind() != Misuse::UnknownArgument {
        return error;
    }
    let mut command = Cli::command();
    command.build();
    match with_numbers_below_zero(command).try_get_matches_from(args) {
        Err(better) if better.kind() == Misuse::ValueValidation => better,
        Ok(_) | Err(_) => error,
    }
}

fn with_numbers_below_zero(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| match arg.get_action().takes_values() {
            true => arg.allow_negative_numbers(true),
            false => arg,
        })
        .mut_subcommands(with_numbers_below_zero)
}

/// What holds for every command.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Output")]
pub struct GlobalArgs {
    /// Print the result as JSON
    #[arg(long, global = true)]
    pub json: bool,

    /// Print nothing on standard error but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Print on standard error what is being done
    #[arg(short, long, global = true)]
    pub verbose: bool,

    /// When to use colours: auto (on a terminal, unless NO_COLOR or CLICOLOR says otherwise), always or
    /// never
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        value_enum,
        hide_possible_values = true
    )]
    pub color: ColorChoice,

    /// How to show progress: auto (bars on a terminal, else plain), plain (a line for each step) or none
    #[arg(
        long,
        global = true,
        value_name = "HOW",
        default_value = "auto",
        value_enum,
        hide_possible_values = true
    )]
    pub progress: ProgressStyle,
}

/// Has what holds for every command listed last: a command that is made only once it is named gets these
/// before its own.
trait GlobalsLast {
    /// Moves them to the end.
    fn globals_last(self) -> Self;
}

impl GlobalsLast for clap::Command {
    fn globals_last(self) -> Self {
        let globals: Vec<_> = self
            .get_arguments()
            .filter(|arg| arg.is_global_set())
            .map(|arg| arg.get_id().clone())
            .collect();
        // Clap puts what it changes at the end.
        globals
            .into_iter()
            .fold(self, |command, id| command.mut_arg(id, |arg| arg))
    }
}

/// Whether to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR or CLICOLOR says otherwise.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressStyle {
    /// Bars on a terminal, plain lines otherwise.
    Auto,
    /// A line for each step.
    Plain,
    /// Not at all.
    None,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Run a command in a new sandbox
    Run(Box<RunArgs>),
    /// Make a sandbox without starting it
    Create(Box<CreateArgs>),
    /// Start sandboxes
    Start(StartArgs),
    /// Run a command in a running sandbox
    Exec(Box<ExecCommandArgs>),
    /// Stay with a command that runs in a sandbox
    Attach(AttachArgs),
    /// Copy files into sandboxes, out of them and between them
    Cp(CpArgs),
    /// Look at the files of a running sandbox, and change them
    Fs(FsArgs),
    /// End sandboxes, gently: SIGTERM to what runs in them, and the end a while later
    #[command(
        after_help = "Examples:\n  sovereign stop work\n  sovereign stop -t 1s $(sovereign ls -q)"
    )]
    Stop(StopArgs),
    /// End sandboxes at once, or send their command a signal
    #[command(after_help = "Examples:\n  sovereign kill work\n  sovereign kill -s HUP work")]
    Kill(KillArgs),
    /// Remove sandboxes
    #[command(
        after_help = "Examples:\n  sovereign rm work\n  sovereign rm -f $(sovereign ls -aq --filter label=job=7)"
    )]
    Rm(RmArgs),
    /// List sandboxes
    #[command(visible_alias = "ps")]
    Ls(LsArgs),
    /// Show all that is known of sandboxes
    #[command(after_help = "Example:\n  sovereign inspect work | jq '.[0].state'")]
    Inspect(SandboxesArgs),
    /// Show what a command wrote
    Logs(LogsArgs),
    /// Wait until sandboxes have ended, and print their exit codes
    #[command(
        after_help = "Examples:\n  code=$(sovereign wait work)\n  sovereign wait --command 2 work"
    )]
    Wait(WaitArgs),
    /// Show what sandboxes use of this machine
    Stats(StatsArgs),
    /// Show what runs in a sandbox
    #[command(after_help = "Example:\n  sovereign top work")]
    Top(TopArgs),
    /// Give a sandbox another name
    #[command(after_help = "Example:\n  sovereign rename work old-work")]
    Rename(RenameArgs),
    /// Show what happens to sandboxes, one JSON object a line
    #[command(
        after_help = "Examples:\n  sovereign events --since 1h --no-follow\n  sovereign events | jq -r 'select(.event == \"ended\").name'"
    )]
    Events(EventsArgs),
    /// Show which sandboxes this machine can run, and what stands in the way of the others
    Doctor(DoctorArgs),
    /// Build, list, check and remove sandbox images
    Image(ImageArgs),
    /// Remove what crashes have left behind: containers, folders, unfinished files
    Prune(PruneArgs),
    /// Print the completions for a shell
    Completions(CompletionsArgs),
    /// Print the manual page of a command
    Man(ManArgs),
    /// Print the version
    #[command(after_help = "Example:\n  sovereign version --json")]
    Version,
    /// Hold a sandbox that outlives the program which started it
    #[command(hide = true)]
    Supervise(SuperviseArgs),
}

/// Hold a sandbox that outlives the program which started it
#[derive(Debug, Args)]
pub struct SuperviseArgs {
    /// The registry's folder
    pub root: std::path::PathBuf,
    /// The sandbox
    pub id: crate::name::Id,
    /// Leave the sandbox's own command to whoever started this
    #[arg(long)]
    pub clients_command: bool,
    /// Be the one that stays, and not the one that starts it
    #[arg(long)]
    pub stay: bool,
}

/// Show which sandboxes this machine can run, and what stands in the way of the others
#[derive(Debug, Args)]
#[command(
    after_help = "The exit code is 0 if there is a tier that `sovereign run` takes, else 1.\n\nExamples:\n  sovereign doctor\n  sovereign doctor --json | jq -r .tier"
)]
pub struct DoctorArgs {
    /// The image to look for
    #[arg(long, value_name = "NAME")]
    pub image: Option<String>,
}

/// Remove what crashes have left behind: containers, folders, unfinished files
#[derive(Debug, Args)]
#[command(
    after_help = "What belongs to a process that lives is never touched. For images that are not \
    needed any more, see `sovereign image prune`.\n\nThe exit code is 1 if something could not be \
    removed, else 0.\n\nExample:\n  sovereign prune --dry-run"
)]
pub struct PruneArgs {
    /// Only show what would be removed
    #[arg(long)]
    pub dry_run: bool,
}

/// Print the completions for a shell
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  source <(sovereign completions bash)  # in ~/.bashrc\n  \
    source <(sovereign completions zsh)   # in ~/.zshrc, after compinit\n  \
    sovereign completions fish | source   # in ~/.config/fish/config.fish"
)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Print the manual page of a command
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sovereign man run | man -l -\n  \
    sovereign man --output-dir /usr/local/share/man/man1")]
pub struct ManArgs {
    /// Write the pages of all commands to files in this folder
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub output_dir: Option<std::path::PathBuf>,

    /// The command whose page it is; the overview without one
    #[arg(value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Whether `--json` was typed, on a command line that could not be parsed.
#[must_use]
pub fn asks_for_json(args: &[OsString]) -> bool {
    args.iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| arg == "--json")
}

/// Whether colours were asked for, on a command line that could not be parsed.
#[must_use]
pub fn asked_colors(args: &[OsString]) -> ColorChoice {
    let words = args.iter().take_while(|arg| *arg != "--");
    let words: Vec<_> = words.filter_map(|arg| arg.to_str()).collect();
    let separate = words.windows(2).rev().find_map(|pair| match pair {
        ["--color", when] => Some(*when),
        _ => None,
    });
    let joined = words
        .iter()
        .rev()
        .find_map(|word| word.strip_prefix("--color="));
    let when = joined.or(separate).unwrap_or_default();
    ColorChoice::from_str(when, false).unwrap_or(ColorChoice::Auto)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_args(args: &[&str]) -> Result<RunArgs, clap::Error> {
        let args = ["sovereign", "run"].iter().chain(args);
        let args: Vec<_> = args.map(OsString::from).collect();
        match Cli::read(&args)?.command {
            Command::Run(run) => Ok(*run),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn run_is_read_the_same_wherever_global_options_stand() {
        let read = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            format!("{:?}", Cli::read(&words).unwrap())
        };
        let after = read(&["sovereign", "run", "-q", "--cpus", "2", "--", "true", "-q"]);
        let before = read(&["sovereign", "-q", "run", "--cpus", "2", "--", "true", "-q"]);
        assert_eq!(after, before);
        let wrong = ["sovereign", "run", "--cpu", "2"].map(OsString::from);
        let error = Cli::read(&wrong).unwrap_err().to_string();
        assert!(
            error.contains("--cpus") && error.contains("sovereign run"),
            "{error}"
        );
    }

    #[test]
    fn files_are_listed_from_the_users_home_on() {
        let paths = |args: &[&str]| {
            let args = ["sovereign", "fs", "ls"].iter().chain(args);
            let args: Vec<_> = args.map(OsString::from).collect();
            match Cli::read(&args).unwrap().command {
                Command::Fs(FsArgs {
                    action: FsAction::Ls(args),
                    ..
                }) => args.paths,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(paths(&["work"]), ["."]);
        assert_eq!(paths(&["work", "/a", "b"]), ["/a", "b"]);
    }

    #[test]
    fn help_is_a_word_too() {
        let help = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            Cli::read(&words).unwrap_err().to_string()
        };
        for (word, flag) in [
            (vec!["sovereign", "help"], vec!["sovereign", "--help"]),
            (
                vec!["sovereign", "help", "run"],
                vec!["sovereign", "run", "--help"],
            ),
            (
                vec!["sovereign", "help", "fs", "ls"],
                vec!["sovereign", "fs", "ls", "--help"],
            ),
        ] {
            assert_eq!(help(&word), help(&flag));
        }
        assert!(help(&["sovereign", "help", "nosuch"]).contains("nosuch"));
        let run = run_args(&["help"]).unwrap();
        assert_eq!(run.command, ["help"]);
    }

    #[test]
    fn numbers_below_zero_are_told_as_what_they_are() {
        for (words, told) in [
            (["run", "--timeout", "-1"], "a duration is"),
            (["run", "--cpus", "-1"], "number of CPUs"),
            (["run", "-m", "-1"], "a size is"),
            (["logs", "-n", "-1"], "a number of lines is"),
            (["stop", "-t", "-1"], "a duration is"),
        ] {
            let words = ["sovereign"].iter().chain(&words).chain(&["--", "x"]);
            let words: Vec<_> = words.map(OsString::from).collect();
            let error = Cli::read(&words).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let inner: Vec<_> = command.get_subcommands().collect();
            for command in inner.iter().filter(|it| !it.is_hide_set()) {
                check(command, &path);
            }
            if inner.is_empty() {
                let long = command.get_after_long_help().or(command.get_after_help());
                let text = long.map(ToString::to_string).unwrap_or_default();
                let is_its_own = text.contains(&format!("{} ", path.trim()))
                    || text.lines().any(|line| line.ends_with(path.trim()));
                assert!(text.contains("Example") && is_its_own, "{path}: {text}");
            }
        }
        let mut command = Cli::command();
        command.build();
        for command in command.get_subcommands().filter(|it| !it.is_hide_set()) {
            check(command, "sovereign");
        }
    }

    /// The struct of a command's options and the list that it stands in both describe it, and the one
    /// that is read later wins.
    #[test]
    fn every_command_is_described_as_in_its_list() {
        fn help(words: &[&str]) -> String {
            let words = ["sovereign"].iter().chain(words).chain(&["-h"]);
            let words: Vec<_> = words.map(OsString::from).collect();
            Cli::read(&words).unwrap_err().to_string()
        }
        /// A list has two columns, of which the second goes on in lines of its own.
        fn list(help: &str) -> Vec<(String, String)> {
            let (_, list) = help.split_once("Commands:\n").unwrap();
            let (list, _) = list.split_once("\n\n").unwrap();
            let mut commands: Vec<(String, String)> = Vec::new();
            for line in list.lines() {
                match (line.trim().split_once("  "), commands.last_mut()) {
                    (Some((name, about)), _) => {
                        commands.push((name.to_owned(), about.trim().to_owned()));
                    }
                    (None, Some((_, about))) => *about = format!("{about} {}", line.trim()),
                    (None, None) => panic!("{line}"),
                }
            }
            commands
        }
        fn first_paragraph(help: &str) -> String {
            let (about, _) = help.split_once("\n\n").unwrap();
            about.lines().collect::<Vec<_>>().join(" ")
        }
        for group in [&[][..], &["image"], &["fs"]] {
            let commands = list(&help(group));
            assert!(commands.len() > 3, "{commands:?}");
            for (name, about) in commands {
                let words: Vec<_> = group.iter().copied().chain([name.as_str()]).collect();
                let listed = about.split(" [alias").next().unwrap_or_default();
                assert_eq!(first_paragraph(&help(&words)), listed, "{words:?}");
            }
        }
    }

    #[test]
    fn what_holds_for_every_command_is_listed_last() {
        for name in ["run", "create", "exec"] {
            let words = ["sovereign", name, "--help"].map(OsString::from);
            let help = Cli::read(&words).unwrap_err().to_string();
            let (own, global) = help.split_once("\nOutput:\n").unwrap();
            assert!(own.contains("How the command runs:\n"), "{help}");
            assert!(global.contains("--json"), "{help}");
        }
    }

    /// What was wrapped by hand falls apart where it is wrapped again, and a table in a narrow terminal.
    #[test]
    fn what_is_wrapped_by_hand_fits_an_ordinary_terminal() {
        const WIDTH: usize = 80;
        const FULL: usize = 72;
        fn check(command: &clap::Command, path: &str, wrong: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            let long = command.get_after_long_help().or(command.get_after_help());
            let text = long.map(ToString::to_string).unwrap_or_default();
            for (line, next) in text.lines().zip(text.lines().skip(1).chain([""])) {
                let is_prose = !line.starts_with(' ');
                let is_too_wide = !is_prose && line.chars().count() >= WIDTH;
                let goes_on = is_prose && line.len() > FULL && !next.is_empty();
                if is_too_wide || (goes_on && !next.starts_with(' ')) {
                    wrong.push(format!("{path}: {line}"));
                }
            }
            for command in command.get_subcommands() {
                check(command, &path, wrong);
            }
        }
        let mut command = Cli::command();
        command.build();
        let mut wrong = Vec::new();
        check(&command, "", &mut wrong);
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn colours_are_noticed_on_a_line_that_makes_no_sense() {
        let asked =
            |words: &[&str]| asked_colors(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(
            asked(&["x", "--color=always", "--nope"]),
            ColorChoice::Always
        );
        assert_eq!(
            asked(&["x", "--nope", "--color", "never"]),
            ColorChoice::Never
        );
        assert_eq!(asked(&["x", "--", "--color=never"]), ColorChoice::Auto);
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_command_is_its_own() {
        let run =
            run_args(&["-m", "1G", "--", "sh", "-c", "exit 3", "--json", "--", "-i"]).unwrap();
        assert_eq!(run.command, ["sh", "-c", "exit 3", "--json", "--", "-i"]);
        assert!(!run.exec.interactive);
        assert_eq!(run.sandbox.memory, Some(1024));
    }

    #[test]
    fn the_dashes_may_be_left_out() {
        let run = run_args(&["-i", "ls", "-l", "-i"]).unwrap();
        assert_eq!(run.command, ["ls", "-l", "-i"]);
        assert!(run.exec.interactive);
    }

    #[cfg(unix)]
    #[test]
    fn arguments_need_not_be_text() {
        use std::os::unix::ffi::OsStrExt;

        let odd = OsStr::from_bytes(b"\xff\xfe");
        let args = ["sovereign", "run", "--", "echo"].map(OsString::from);
        let cli = Cli::try_parse_from(args.into_iter().chain([odd.to_owned()])).unwrap();
        let Command::Run(run) = cli.command else {
            panic!("not run")
        };
        assert_eq!(run.command[1], odd);
    }

    #[test]
    fn global_flags_are_taken_before_and_after_the_command_word() {
        for args in [["--json", "run", "true"], ["run", "--json", "true"]] {
            let cli = Cli::try_parse_from(std::iter::once("sovereign").chain(args)).unwrap();
            assert!(cli.global.json);
        }
    }

    #[test]
    fn values_may_stick_to_their_flags() {
        for words in [["-m=256M", "-i"], ["-m256M", "-i"], ["--memory=256M", "-i"]] {
            let run = run_args(&[words[0], words[1], "ls", "-m1G"]).unwrap();
            assert_eq!(run.sandbox.memory, Some(256), "{words:?}");
            assert_eq!(run.command, ["ls", "-m1G"]);
        }
    }

    #[test]
    fn an_unknown_flag_is_not_taken_for_the_command() {
        for flag in ["--no-such-flag", "-Z", "-Z=1"] {
            assert!(run_args(&[flag, "--", "true"]).is_err(), "{flag}");
        }
    }

    #[test]
    fn a_command_is_required() {
        assert!(run_args(&[]).is_err());
        assert!(run_args(&["--"]).is_err());
    }

    #[test]
    fn unknown_tiers_are_refused_with_the_known_ones() {
        let error = run_args(&["--tier", "vm", "--", "true"])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("microvm") && error.contains("auto"),
            "{error}"
        );
    }

    #[test]
    fn kill_after_needs_a_timeout() {
        assert!(run_args(&["--kill-after", "1s", "--", "true"]).is_err());
    }

    #[test]
    fn json_is_noticed_before_the_dashes_only() {
        let args = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(asks_for_json(&args(&["run", "--json", "--cpus", "x"])));
        assert!(!asks_for_json(&args(&["run", "--", "tool", "--json"])));
    }
}
