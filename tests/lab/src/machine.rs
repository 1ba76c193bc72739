//! The emulated machine that is the lab: QEMU, its deadline and its two serial lines.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::disk;
use crate::job::{Job, Mode};
use crate::parts::Parts;
use crate::pulse::{Pulse, StandsStill, WORD};
use crate::tools::{QEMU, SETPRIV, cache_dir};

/// How long QEMU may take to end after the lab's last word.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// What the lab's kernel says last when it dies. What guests say does not come this way.
const PANIC: &str = "Kernel panic - not syncing";

/// One CPU: with two, the lab's kernel dies patching its own code under multi-threaded TCG.
const HARDWARE: &str = "-cpu EPYC,+svm,+npt -smp 1 -nodefaults -no-user-config -display none \
                        -no-reboot";

/// `rootwait`: the kernel looks for the disk in the background.
const KERNEL_CMDLINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr \
                              root=/dev/nvme0n1 rootwait rw init=/sbin/init";

/// How often it is looked whether the lab lives.
const LOOK: Duration = Duration::from_secs(5);

/// The lab's own kernel died, or stands still, which is no verdict on what ran in it: after many nested
/// guests the emulation has been seen to go wrong (a register of the emulated CPU changed between two
/// instructions; the interrupt of its timer was lost).
#[derive(Debug)]
pub struct LabDied {
    how: &'static str,
    console: String,
}

impl std::fmt::Display for LabDied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the lab's own kernel {}; its console said:\n{}",
            self.how, self.console
        )
    }
}

impl std::error::Error for LabDied {}

/// How a job ended.
#[derive(Debug)]
pub struct Outcome {
    /// The job's exit code.
    pub exit_code: i32,
    /// What the lab's kernel and init said.
    pub console: String,
    /// How long the whole took here.
    pub wall: Duration,
}

/// Runs `job` in a lab of its own. `on_line` gets each line that it prints, as it comes.
///
/// # Errors
///
/// If a tool is missing, the machine does not start or dies, or the job exceeds its deadline or is
/// silent for too long. The message carries what the console said. It is a [`LabDied`] if the lab's
/// kernel panicked, or does nothing any more.
pub fn run(parts: &Parts, job: &Job, on_line: &mut dyn FnMut(&str)) -> Result<Outcome> {
    let started = Instant::now();
    let work = WorkDir::make()?;
    let disk = disk::make(work.path(), parts, job)?;
    let console = work.path().join("console.log");
    let mut command = qemu(parts, job, &disk)?;
    command
        .args([
            "-chardev",
            &format!("file,id=console,path={}", qemu_path(&console)?),
        ])
        .args(["-serial", "chardev:console", "-serial", "stdio"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut machine = Machine::start(&mut command)?;
    // An instrument is not disturbed.
    let mut pulse = (job.mode == Mode::Functional).then(|| Pulse::of(&console, started));
    let ended = machine.follow(job, pulse.as_mut(), on_line);
    let said = fs::read(&console).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    if let Err(error) = ended {
        if error.is::<StandsStill>() {
            bail!(LabDied {
                how: "stands still",
                console: tail(&said)
            });
        }
        bail!("{error:#}; its console said:\n{}", tail(&said));
    }
    let Some(exit_code) = exit_code(&said) else {
        if said.contains(PANIC) {
            bail!(LabDied {
                how: "died",
                console: tail(&said)
            });
        }
        bail!(
            "the lab died before its job ended; its console said:\n{}\n{}",
            tail(&said),
            machine.complaints()
        );
    };
    if let Some(target) = &job.out {
        disk::take_out(&disk, target)?;
    }
    Ok(Outcome {
        exit_code,
        console: said,
        wall: started.elapsed(),
    })
}

/// Opens an interactive shell in a lab, on this terminal, and waits for its end.
///
/// # Errors
///
/// If a tool is missing or the machine does not start.
pub fn shell(parts: &Parts, job: &Job) -> Result<()> {
    let work = WorkDir::make()?;
    let disk = disk::make(work.path(), parts, job)?;
    let mut command = qemu(parts, job, &disk)?;
    command.args(["-serial", "mon:stdio"]).stderr(Stdio::null());
    let status = command.status().context("cannot start QEMU")?;
    if !status.success() {
        bail!("QEMU ended with {status}");
    }
    Ok(())
}

/// Returns QEMU's command line, without its serial lines.
fn qemu(parts: &Parts, job: &Job, disk: &Path) -> Result<Command> {
    // setpriv: the machine must not outlive us, however we end.
    let mut command = Command::new(SETPRIV.find()?);
    command.args(["--pdeathsig", "KILL"]).arg(QEMU.find()?);
    command.args(match job.mode {
        Mode::Functional => ["-accel", "tcg,tb-size=512"].as_slice(),
        Mode::Counted => &[
            "-accel",
            "tcg,thread=single",
            "-icount",
            "shift=0,sleep=off",
        ],
    });
    command.args(HARDWARE.split_whitespace());
    command.arg("-m").arg(job.memory_mib.to_string());
    command
        .arg("-kernel")
        .arg(parts.kernel())
        .args(["-append", KERNEL_CMDLINE]);
    // Locking is off: the disk is ours alone, and some file systems cannot lock.
    let file = qemu_path(disk)?;
    let drive = "if=none,id=disk,format=raw,cache=unsafe,file.locking=off,file=";
    command.arg("-drive").arg(format!("{drive}{file}"));
    command.args(["-device", "nvme,drive=disk,serial=lab"]);
    Ok(command)
}

/// A running QEMU. Dropping it ends it.
struct Machine {
    child: Child,
    output: Receiver<Vec<u8>>,
    complaints: Option<thread::JoinHandle<String>>,
}

impl Machine {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.spawn().context("cannot start QEMU")?;
        let (sender, output) = channel();
        let stdout = child.stdout.take().context("QEMU has no standard output")?;
        thread::spawn(move || pass_on(stdout, &sender));
        let complaints = child.stderr.take().map(|mut stderr| {
            thread::spawn(move || {
                let mut text = Vec::new();
                // What could be read counts, also when reading ended with an error.
                let _ = stderr.read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        Ok(Self {
            child,
            output,
            complaints,
        })
    }

    /// Passes on the job's lines until the machine ends or a deadline passes.
    fn follow(
        &mut self,
        job: &Job,
        mut pulse: Option<&mut Pulse<'_>>,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let end = Instant::now() + job.deadline;
        let mut heard = Instant::now();
        let mut pending = Vec::new();
        loop {
            let silent = (heard + job.silence).min(end);
            let left = silent.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left.min(LOOK)) {
                Ok(bytes) => {
                    heard = Instant::now();
                    pending.extend(bytes);
                    while let Some(at) = pending.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = pending.drain(..=at).collect();
                        on_line(String::from_utf8_lossy(&line).trim_end());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let now = Instant::now();
                    if now >= end {
                        bail!("the lab's job did not end within {:?}", job.deadline);
                    }
                    if now >= silent {
                        bail!("the lab's job printed nothing for {:?}", job.silence);
                    }
                    if let Some(pulse) = &mut pulse {
                        pulse.feel(now)?;
                    }
                }
            }
        }
        if !pending.is_empty() {
            on_line(&String::from_utf8_lossy(&pending));
        }
        self.wait()
    }

    /// Waits for QEMU's end, which follows the end of its output.
    fn wait(&mut self) -> Result<()> {
        let end = Instant::now() + END_TIMEOUT;
        while Instant::now() < end {
            if self
                .child
                .try_wait()
                .context("cannot wait for QEMU")?
                .is_some()
            {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("QEMU did not end within {END_TIMEOUT:?}")
    }

    /// Returns what QEMU itself said, without what it always says about TCG.
    fn complaints(&mut self) -> String {
        let text = self
            .complaints
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        let lines = text
            .lines()
            .filter(|line| !line.contains("TCG doesn't support"));
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pass_on(mut stdout: ChildStdout, sender: &Sender<Vec<u8>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = stdout.read(&mut buffer) {
        let Some(bytes) = buffer.get(..count) else {
            return;
        };
        if sender.send(bytes.to_vec()).is_err() {
            return;
        }
    }
}

/// Returns the code that the lab's init said last.
fn exit_code(console: &str) -> Option<i32> {
    let word = console
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix("@lab exit "))?;
    word.trim().parse().ok()
}

/// Returns the last lines of a console.
fn tail(console: &str) -> String {
    const LINES: usize = 40;
    let lines = console.lines().filter(|line| line.trim() != WORD);
    let lines: Vec<_> = lines.collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// A path as a part of a QEMU option, in which commas separate.
fn qemu_path(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(text.replace(',', ",,"))
}

/// A folder for one run, named for our process, so that what a killed run left is found and removed.
struct WorkDir {
    dir: PathBuf,
}

impl WorkDir {
    fn make() -> Result<Self> {
        let runs = cache_dir()?.join("lab").join("runs");
        fs::create_dir_all(&runs).with_context(|| format!("cannot make {}", runs.display()))?;
        remove_dead(&runs);
        let name = format!("{}-", std::process::id());
        let dir = tempfile::Builder::new()
            .prefix(&name)
            .tempdir_in(&runs)
            .with_context(|| format!("cannot make a folder in {}", runs.display()))?
            .keep();
        Ok(Self { dir })
    }

    fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next run.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Removes the folders of runs whose process is gone.
fn remove_dead(runs: &Path) {
    let Ok(entries) = fs::read_dir(runs) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Another run may remove it at the same time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_is_the_last_word_of_the_console() {
        assert_eq!(
            exit_code("noise\r\n@lab exit 3\r\n[ 5.1] reboot: Power down\r\n"),
            Some(3)
        );
        assert_eq!(exit_code("Kernel panic - not syncing"), None);
    }

    #[test]
    fn commas_in_paths_are_doubled_for_qemu() {
        assert_eq!(qemu_path(Path::new("/a,b/c")).unwrap(), "/a,,b/c");
    }

    #[test]
    fn folders_of_dead_runs_are_removed_and_living_ones_kept() {
        let runs = tempfile::tempdir().unwrap();
        let living = runs.path().join(format!("{}-x", std::process::id()));
        let dead = runs.path().join("4294967295-x");
        fs::create_dir(&living).unwrap();
        fs::create_dir(&dead).unwrap();
        remove_dead(runs.path());
        assert!(living.exists());
        assert!(!dead.exists());
    }
}
