//! Sessions with an agent that no socket of this machine leads to.
//!
//! ```text
//!  a session's stream ──┐
//!  a session's stream ──┴▶ thread docker-bridge ══API: exec of `--join`, hijacked══▶ agent
//!                            └────────────API: attached stdin of the agent: its life line
//! ```
//!
//! The thread lives as long as the container does, or until the bridge is dropped; then the life line
//! is cut, and the agent ends.

use std::io;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::thread::{self, JoinHandle};

use bollard::Docker;
use bollard::container::{AttachContainerResults, LogOutput};
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::container::{AGENT, USER};

/// How much is moved at a time.
const PIECE: usize = 64 * 1024;

/// A way to an agent. Dropped, the agent ends.
#[derive(Debug)]
pub(super) struct Bridge {
    /// Streams whose other end is to become one of the agent's.
    streams: Option<UnboundedSender<UnixStream>>,
    thread: Option<JoinHandle<()>>,
}

impl Bridge {
    /// A bridge to the agent of this container, which lives as long as this attachment, and is driven
    /// by this runtime.
    pub(super) fn new(
        runtime: Runtime,
        api: Docker,
        container: String,
        lifeline: AttachContainerResults,
    ) -> io::Result<Self> {
        let (streams, taken) = unbounded_channel();
        let thread = thread::Builder::new()
            .name("docker-bridge".to_owned())
            .spawn(move || {
                runtime.block_on(carry(api, container, lifeline, taken));
                // Sessions end with their tasks.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            streams: Some(streams),
            thread: Some(thread),
        })
    }

    /// Makes this stream's other end one to the agent. `false` if the agent has ended.
    pub(super) fn carry(&self, stream: UnixStream) -> bool {
        let streams = self.streams.as_ref();
        streams.is_some_and(|streams| streams.send(stream).is_ok())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.streams = None;
        if let Some(thread) = self.thread.take() {
            // A panic of it has been told already, and everything it had is gone.
            let _ = thread.join();
        }
    }
}

/// Serves streams, until there can be no more of them or the agent has ended.
async fn carry(
    api: Docker,
    container: String,
    lifeline: AttachContainerResults,
    mut streams: UnboundedReceiver<UnixStream>,
) {
    let mut sessions = JoinSet::new();
    let mut said = lifeline.output;
    let _held = lifeline.input;
    loop {
        tokio::select! {
            stream = streams.recv() => match stream {
                // That it has failed shows by the end of its stream.
                Some(stream) => { sessions.spawn(session(api.clone(), container.clone(), stream)); }
                None => break,
            },
            piece = said.next() => if !matches!(piece, Some(Ok(_))) { break },
            Some(_) = sessions.join_next() => {}
        }
    }
}

/// Moves bytes between a stream and the agent, until the agent has said all that it has to say.
async fn session(api: Docker, container: String, stream: UnixStream) -> io::Result<()> {
    let failed = |error: bollard::errors::Error| io::Error::other(error);
    let exec = CreateExecOptions {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(false),
        cmd: Some(vec![AGENT, "--join"]),
        user: Some(USER),
        working_dir: Some("/"),
        ..CreateExecOptions::default()
    };
    let exec = api.create_exec(&container, exec).await.map_err(failed)?;
    let options = StartExecOptions {
        output_capacity: Some(PIECE),
        ..StartExecOptions::default()
    };
    let started = api.start_exec(&exec.id, Some(options)).await;
    let StartExecResults::Attached {
        mut output,
        mut input,
    } = started.map_err(failed)?
    else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    stream.set_nonblocking(true)?;
    let (from_us, mut to_us) = tokio::net::UnixStream::from_std(stream)?.into_split();
    let inward = pin!(inward(from_us, &mut input));
    let outward = pin!(async {
        while let Some(piece) = output.next().await {
            if let LogOutput::StdOut { message } = piece.map_err(failed)? {
                to_us.write_all(&message).await?;
            }
        }
        Ok(())
    });
    tokio::select! {
        done = outward => done,
        // We have no more to say, or nobody listens: the agent's last words are waited for.
        never = async { let _ = inward.await; std::future::pending().await } => never,
    }
}

/// Moves what we say, and then says that this was all: however we end, for the agent's end waits for it
/// (see its `--join`).
async fn inward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let moved = loop {
        let count = match from.read(&mut piece).await {
            Ok(0) => break Ok(()),
            Ok(count) => count,
            Err(error) => break Err(error),
        };
        to.write_all(piece.get(..count).unwrap_or_default()).await?;
        to.flush().await?;
    };
    to.shutdown().await.and(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_is_said_also_if_something_was_left_unread() {
        let (ours, session) = tokio::net::UnixStream::pair().unwrap();
        let (mut engine, input) = tokio::net::UnixStream::pair().unwrap();
        let mut session = session;
        session.write_all(b"last").await.unwrap();
        let mut ours = ours;
        ours.write_all(b"unread").await.unwrap();
        drop(session);
        let moved = inward(ours, input).await;
        assert_eq!(moved.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let mut said = Vec::new();
        engine.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"last");
    }
}
