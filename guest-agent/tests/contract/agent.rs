//! A running agent.

use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use agent_client::{ClientError, Exec, Finished, Output, PumpIo, Session, SessionOptions};
use agent_protocol::message::ExecRequest;
use tempfile::TempDir;

/// An agent that serves a socket in a folder of its own. Dropped, it has to end at once.
pub(crate) struct Agent {
    process: Child,
    folder: TempDir,
}

impl Agent {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("unix:{}", folder.path().join("agent").display());
        let process = Command::new(env!("CARGO_BIN_EXE_sovereign-agent"))
            .args(["--listen", &address])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { process, folder };
        eventually("the agent listens", || agent.try_connect().is_some());
        agent
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn process(&mut self) -> &mut Child {
        &mut self.process
    }

    pub(crate) fn connect(&self) -> UnixStream {
        self.try_connect().expect("the agent takes connections")
    }

    fn try_connect(&self) -> Option<UnixStream> {
        UnixStream::connect(self.folder.path().join("agent")).ok()
    }

    pub(crate) fn session(&self) -> Session {
        Session::new(self.connect(), SessionOptions::default())
    }

    pub(crate) fn exec(&self, request: ExecRequest) -> Exec {
        self.session().exec(request).unwrap()
    }

    /// Runs a command and collects what it does.
    pub(crate) fn run(&self, request: ExecRequest) -> Result<Output, ClientError> {
        self.exec(request).output(b"", 1 << 20)
    }

    /// Runs a line of shell and collects what it does.
    pub(crate) fn shell(&self, line: &str) -> Output {
        self.run(shell(line)).unwrap()
    }

    pub(crate) fn pump(
        &self,
        request: ExecRequest,
        io: PumpIo<'_>,
    ) -> Result<Finished, ClientError> {
        self.exec(request).pump(io)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A request for a line of shell, as the user who runs the test.
pub(crate) fn shell(line: &str) -> ExecRequest {
    request(&["/bin/sh", "-c", line])
}

/// A request, as the user who runs the test and with a useful `PATH`.
pub(crate) fn request(argv: &[&str]) -> ExecRequest {
    let own = format!(
        "{}:{}",
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw()
    );
    ExecRequest {
        user: Some(own),
        cwd: Some(b"/".to_vec().into()),
        ..ExecRequest::new(argv.iter().copied())
    }
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not in 20 s: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process runs whose command line holds this text.
pub(crate) fn runs(text: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        std::fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(text))
    })
}

/// A number of seconds to sleep that no other test uses, to find its process by.
pub(crate) fn unique_sleep() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("9{:05}.{number:04}", std::process::id() % 100_000)
}
