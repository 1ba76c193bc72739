//! Calls of the `sovereign` command, each with a deadline.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How long a call may take unless a test says otherwise. A sandbox in the lab takes a second or
/// two; this is for the slowest machine on its worst day.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// The `sovereign` command under test.
#[derive(Debug, Clone)]
pub struct Sovereign {
    program: PathBuf,
}

impl Sovereign {
    /// Returns the command that `SOVEREIGN_E2E_PROGRAM` names, by default the one beside us.
    ///
    /// # Errors
    ///
    /// If there is no such file.
    pub fn find() -> Result<Self> {
        let program = match env::var_os("SOVEREIGN_E2E_PROGRAM") {
            Some(path) => PathBuf::from(path),
            None => env::current_exe()
                .context("cannot find ourselves")?
                .with_file_name("sovereign"),
        };
        Self::at(&program)
    }

    /// Returns the command at a path.
    ///
    /// # Errors
    ///
    /// If there is no such file.
    pub fn at(program: &Path) -> Result<Self> {
        if !program.is_file() {
            bail!(
                "no program to test at {}: set SOVEREIGN_E2E_PROGRAM",
                program.display()
            );
        }
        Ok(Self {
            program: program.to_owned(),
        })
    }

    /// Returns why no guest can boot here, if none can: what `sovereign doctor` says of the tier.
    ///
    /// # Errors
    ///
    /// If its answer cannot be understood.
    pub fn guest_obstacle(&self) -> Result<Option<String>> {
        let answer = self.call(["doctor", "--json"]).output()?.json()?;
        let tiers = answer["tiers"]
            .as_array()
            .context("doctor's answer has no list of tiers")?;
        let microvm = tiers
            .iter()
            .find(|tier| tier["tier"] == "microvm")
            .context("doctor's answer has no tier microvm")?;
        if microvm["available"] == true {
            return Ok(None);
        }
        Ok(Some(
            microvm["cause"]
                .as_str()
                .unwrap_or("no cause given")
                .to_owned(),
        ))
    }

    /// Returns the path of the program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Prepares `sovereign ARGS`.
    pub fn call<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Call {
        let mut command = Command::new(&self.program);
        command.args(args);
        Call {
            command,
            stdin: Vec::new(),
            deadline: DEADLINE,
        }
    }

    /// Prepares `sovereign run -m 128M ARGS`: small, so that many fit on one host.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Call {
        self.run_with_memory("128M", args)
    }

    /// Prepares `sovereign run -m MEMORY ARGS`.
    pub fn run_with_memory<A: AsRef<OsStr>>(
        &self,
        memory: &str,
        args: impl IntoIterator<Item = A>,
    ) -> Call {
        let args = args
            .into_iter()
            .map(|argument| argument.as_ref().to_owned());
        self.call(
            ["run", "-m", memory]
                .map(OsString::from)
                .into_iter()
                .chain(args),
        )
    }
}

/// A call that was not made yet.
#[derive(Debug)]
pub struct Call {
    command: Command,
    stdin: Vec<u8>,
    deadline: Duration,
}

impl Call {
    /// Gives the call this standard input, and then its end.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Makes the call as another user.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.command.uid(uid).gid(gid);
        self
    }

    /// Sets how long it may take.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Makes the call and waits for its end.
    ///
    /// # Errors
    ///
    /// If it cannot be started, or does not end before its deadline.
    pub fn output(mut self) -> Result<Output> {
        let stdin = std::mem::take(&mut self.stdin);
        let shown = format!("{:?}", self.command);
        let mut running = self.start()?;
        let mut pipe = running.take_stdin()?;
        let feeder = thread::spawn(move || {
            // A command that ends without reading everything is no error of the test.
            let _ = pipe.write_all(&stdin);
        });
        let stdout = collect(running.take_stdout()?);
        let stderr = collect(running.take_stderr()?);
        let status = running.wait().with_context(|| shown.clone())?;
        let wall = running.started.elapsed();
        let joined = (stdout.join(), stderr.join(), feeder.join());
        let (Ok(stdout), Ok(stderr), Ok(())) = joined else {
            bail!("a reader panicked")
        };
        Ok(Output {
            call: shown,
            status,
            stdout,
            stderr,
            wall,
        })
    }

    /// Makes the call, in a process group of its own, with pipes on all three streams.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(mut self) -> Result<Running> {
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.command.process_group(0);
        let started = Instant::now();
        let child = self
            .command
            .spawn()
            .with_context(|| format!("cannot start {:?}", self.command))?;
        Ok(Running {
            child,
            started,
            deadline: self.deadline,
        })
    }
}

/// A call that was made. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    started: Instant,
    deadline: Duration,
}

impl Running {
    /// Returns its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns its standard input. Dropping that is the end of the input.
    ///
    /// # Errors
    ///
    /// If it was taken before.
    pub fn take_stdin(&mut self) -> Result<ChildStdin> {
        self.child.stdin.take().context("standard input was taken")
    }

    /// Returns its standard output.
    ///
    /// # Errors
    ///
    /// If it was taken before.
    pub fn take_stdout(&mut self) -> Result<ChildStdout> {
        self.child
            .stdout
            .take()
            .context("standard output was taken")
    }

    /// Returns its standard error.
    ///
    /// # Errors
    ///
    /// If it was taken before.
    pub fn take_stderr(&mut self) -> Result<ChildStderr> {
        self.child.stderr.take().context("standard error was taken")
    }

    /// Sends a signal to the process alone.
    ///
    /// # Errors
    ///
    /// If it cannot be sent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.rustix_pid()?, signal).context("cannot send a signal")
    }

    /// Sends a signal to its process group, as a terminal does on Ctrl-C.
    ///
    /// # Errors
    ///
    /// If it cannot be sent.
    pub fn signal_group(&self, signal: Signal) -> Result<()> {
        kill_process_group(self.rustix_pid()?, signal).context("cannot send a signal")
    }

    fn rustix_pid(&self) -> Result<Pid> {
        let raw = i32::try_from(self.child.id()).context("a process id out of range")?;
        Pid::from_raw(raw).context("process id 0")
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// If it does not end before its deadline; it is killed then.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let left = self.deadline.saturating_sub(self.started.elapsed());
        match self.wait_for(left)? {
            Some(status) => Ok(status),
            None => bail!("did not end within {:?}", self.deadline),
        }
    }

    /// Waits for its end for at most `patience`.
    ///
    /// # Errors
    ///
    /// If it cannot be waited for.
    pub fn wait_for(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait")? {
                return Ok(Some(status));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is what the test sees.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

/// Reads until `stream` has given `count` bytes.
///
/// # Errors
///
/// If the stream ends or fails before.
pub fn read_exactly(stream: &mut impl Read, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// What came of a call.
#[derive(Debug)]
pub struct Output {
    call: String,
    status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// How long it took.
    pub wall: Duration,
}

impl Output {
    /// Returns the exit code; 128+N if signal N killed the command itself.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status
            .code()
            .or_else(|| self.status.signal().map(|signal| 128 + signal))
    }

    /// Returns standard output as text, without blanks around it.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// Returns standard error as text.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Returns standard output as the JSON document that it must be.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.stdout).with_context(|| format!("no JSON: {self}"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} ended with {:?} after {:?}; stdout: {}; stderr: {}",
            self.call,
            self.code(),
            self.wall,
            shortened(&self.stdout),
            shortened(&self.stderr)
        )
    }
}

/// The end of a stream, for a message.
fn shortened(bytes: &[u8]) -> String {
    const LONGEST: usize = 2000;
    let from = bytes.len().saturating_sub(LONGEST);
    let shown = String::from_utf8_lossy(bytes.get(from..).unwrap_or_default());
    if from > 0 {
        format!("[{from} bytes] ...{shown:?}")
    } else {
        format!("{shown:?}")
    }
}
