//! Configures and compiles an unpacked kernel tree, and takes the result out of it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::{FRAGMENT, KernelError, config, failed};
use crate::progress::{Step, Unit};
use crate::tool;

/// The stripped kernel, in a cache entry.
pub(super) const VMLINUX: &str = "vmlinux";

/// The complete configuration, in a cache entry.
pub(super) const CONFIG: &str = "config";

/// What `uname -r` says, in a cache entry.
pub(super) const RELEASE: &str = "release";

/// How long configuring or stripping may take.
const SHORT_LIMIT: Duration = Duration::from_secs(900);

/// How long compiling may take: hours on one slow core.
const COMPILE_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// How many lines a whole build prints, roughly: what progress is measured against.
const EXPECTED_LINES: u64 = 1400;

/// What would make two builds of the same inputs differ.
const REPRODUCIBLE: &[(&str, &str)] = &[
    ("KBUILD_BUILD_TIMESTAMP", "1970-01-01 00:00:00 UTC"),
    ("KBUILD_BUILD_USER", "sovereign"),
    ("KBUILD_BUILD_HOST", "sovereign"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// What a user's environment may hold that changes a kernel build.
const DISTURBING: &[&str] = &[
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "MAKEOVERRIDES",
    "CROSS_COMPILE",
    "LLVM",
    "CC",
    "LD",
    "HOSTCC",
    "KCFLAGS",
    "KAFLAGS",
    "KCPPFLAGS",
    "HOSTCFLAGS",
    "HOSTLDFLAGS",
    "KBUILD_OUTPUT",
    "KCONFIG_CONFIG",
    "LOCALVERSION",
    "O",
    "V",
    "W",
    "C",
];

/// Configures and compiles `vmlinux` in `tree`. Everything printed goes to `log`.
///
/// # Errors
/// If an option of the fragment does not hold in the configuration, or the compilation fails.
pub(super) fn compile(tree: &Path, log: &Path, step: &Step<'_>) -> Result<(), KernelError> {
    let mut output = Output::create(log, step).map_err(failed("create", log))?;
    let done = configure(tree, &mut output).and_then(|()| build(tree, log, &mut output));
    output.finish().map_err(failed("write", log))?;
    done
}

/// Puts what is needed of a compiled `tree` into `entry`.
///
/// # Errors
/// If a file cannot be written.
pub(super) fn install(tree: &Path, entry: &Path) -> Result<(), KernelError> {
    let mut strip = Command::new("strip");
    strip
        .arg("--strip-all")
        .arg("-o")
        .arg(entry.join(VMLINUX))
        .arg(tree.join("vmlinux"));
    tool::output(&strip, SHORT_LIMIT)?;
    for (from, to) in [
        (".config", CONFIG),
        ("include/config/kernel.release", RELEASE),
    ] {
        let from = tree.join(from);
        fs::copy(&from, entry.join(to)).map_err(failed("copy", &from))?;
    }
    Ok(())
}

/// Everything off that the fragment does not switch on, and a check that the fragment holds.
fn configure(tree: &Path, output: &mut Output<'_>) -> Result<(), KernelError> {
    let fragment = tree.join("sovereign.config");
    fs::write(&fragment, FRAGMENT).map_err(failed("write", &fragment))?;
    let mut configure = make(tree);
    configure
        .env("KCONFIG_ALLCONFIG", &fragment)
        .arg("allnoconfig");
    tool::run_each(&configure, SHORT_LIMIT, &mut |line| output.note(line))?;
    let finished = tree.join(".config");
    let text = fs::read_to_string(&finished).map_err(failed("read", &finished))?;
    Ok(config::verify(FRAGMENT, &text)?)
}

fn build(tree: &Path, log: &Path, output: &mut Output<'_>) -> Result<(), KernelError> {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut build = make(tree);
    build.arg(format!("--jobs={jobs}")).arg("vmlinux");
    let done = tool::run_each(&build, COMPILE_LIMIT, &mut |line| output.count(line));
    done.map_err(|source| KernelError::Compile {
        log: log.to_owned(),
        source,
    })
}

/// `make` in `tree`, untouched by what the user's environment says about kernel builds.
fn make(tree: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("ARCH=x86_64")
        .current_dir(tree)
        .envs(REPRODUCIBLE.iter().copied());
    for name in DISTURBING {
        make.env_remove(name);
    }
    make
}

/// Where the output goes: all of it to the log, what people want to see to the step.
struct Output<'a> {
    log: BufWriter<File>,
    step: &'a Step<'a>,
    lines: u64,
    failed: Option<io::Error>,
}

impl<'a> Output<'a> {
    fn create(log: &Path, step: &'a Step<'a>) -> io::Result<Self> {
        Ok(Self {
            log: BufWriter::new(File::create(log)?),
            step,
            lines: 0,
            failed: None,
        })
    }

    /// Keeps a line.
    fn note(&mut self, line: &str) {
        if let Err(error) = writeln!(self.log, "{line}") {
            // The first error counts; the build itself may well succeed without its log.
            self.failed.get_or_insert(error);
        }
        self.step.log(line);
    }

    /// Keeps a line and counts it as progress.
    fn count(&mut self, line: &str) {
        self.note(line);
        self.lines += 1;
        let total = EXPECTED_LINES.max(self.lines + 1);
        self.step.advance(self.lines, Some(total), Unit::Items);
    }

    fn finish(mut self) -> io::Result<()> {
        match self.failed {
            Some(error) => Err(error),
            None => self.log.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::progress::{Event, Progress, Silent};

    /// A tree whose Makefile stands in for the kernel's.
    fn tree(folder: &Path, makefile: &str) {
        fs::write(folder.join("Makefile"), makefile).unwrap();
    }

    #[derive(Default, Debug)]
    struct Counts(Mutex<Vec<(u64, Option<u64>)>>);

    impl Progress for Counts {
        fn report(&self, event: &Event<'_>) {
            if let Event::Advanced { current, total, .. } = event {
                self.0.lock().unwrap().push((*current, *total));
            }
        }
    }

    #[test]
    fn option_that_does_not_hold_stops_the_build_before_it_compiles() {
        let folder = tempfile::tempdir().unwrap();
        tree(
            folder.path(),
            "allnoconfig:\n\techo CONFIG_64BIT=y > .config\nvmlinux:\n\ttouch compiled\n",
        );
        let step = Step::begin(&Silent, "compiling");
        let log = folder.path().join("log");
        let error = compile(folder.path(), &log, &step).unwrap_err();
        assert!(matches!(error, KernelError::Config(_)), "{error}");
        assert!(!folder.path().join("compiled").exists());
    }

    #[test]
    fn failed_compilation_shows_its_last_lines_and_names_its_log() {
        let folder = tempfile::tempdir().unwrap();
        tree(
            folder.path(),
            "allnoconfig:\n\tcp $(KCONFIG_ALLCONFIG) .config\nvmlinux:\n\t@echo no such file; false\n",
        );
        let step = Step::begin(&Silent, "compiling");
        let log = folder.path().join("log");
        let error = compile(folder.path(), &log, &step).unwrap_err();
        assert!(error.to_string().contains("log"), "{error}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("no such file"), "{cause}");
        assert!(fs::read_to_string(log).unwrap().contains("no such file"));
    }

    #[test]
    fn environment_of_the_user_does_not_reach_the_build() {
        let make = make(Path::new("/"));
        let value = |name: &str| make.get_envs().find(|(n, _)| *n == name).map(|(_, v)| v);
        assert_eq!(value("KCFLAGS"), Some(None));
        assert_eq!(value("KBUILD_BUILD_USER").flatten().unwrap(), "sovereign");
    }

    #[test]
    fn progress_never_passes_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let counts = Counts::default();
        let step = Step::begin(&counts, "compiling");
        let mut output = Output::create(&folder.path().join("log"), &step).unwrap();
        for _ in 0..EXPECTED_LINES + 10 {
            output.count("  CC      a.o");
        }
        output.finish().unwrap();
        let counts = counts.0.lock().unwrap();
        assert_eq!(counts.len() as u64, EXPECTED_LINES + 10);
        assert!(
            counts
                .iter()
                .all(|(current, total)| Some(*current) < *total)
        );
    }
}
