//! One session: greeting, one request, its answer.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agent_protocol::frame::FrameError;
use agent_protocol::from_agent::AgentFrame;
use agent_protocol::from_host::HostFrame;
use agent_protocol::message::{AgentError, Hello, Request, TracePoint};

use crate::linux::connection::Connection;
use crate::linux::exec;
use crate::linux::init;
use crate::linux::sys::SignalFd;

/// How long a host may take to make its request, and to take the last frame.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a session needs to know of the agent.
#[derive(Debug)]
pub(crate) struct Agent {
    /// Whether this agent is the guest's init, and so owns its clock and random pool.
    pub(crate) is_init: bool,
    /// The moments of its start, for those who asked for them.
    pub(crate) trace: Vec<TracePoint>,
}

/// What a session asks of the agent in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Done,
    /// That it ends, with all that it serves.
    PowerOff,
}

/// Serves the host at the other end until it has its answer, or is gone.
pub(crate) fn serve(stream: OwnedFd, signals: &SignalFd, agent: &Agent) -> Verdict {
    let mut connection = Connection::new(stream);
    let hello = Hello {
        trace: agent.trace.clone(),
        ..Hello::new()
    };
    connection.push_held(&AgentFrame::Hello(hello));
    match receive_request(&mut connection, agent) {
        Ok(Request::Ping) => {
            connection.push(&AgentFrame::Pong);
            finish(connection);
            Verdict::Done
        }
        Ok(Request::PowerOff) => {
            finish(connection);
            Verdict::PowerOff
        }
        Ok(Request::Exec(request)) => {
            exec::serve(connection, &request, signals);
            Verdict::Done
        }
        Err(refusal) => {
            if let Some(error) = refusal {
                connection.push(&AgentFrame::Error(error));
            }
            finish(connection);
            Verdict::Done
        }
    }
}

fn finish(connection: Connection) {
    connection.finish(Instant::now() + PATIENCE);
}

/// Waits for the host's first two frames. `Err(None)` when there is nobody to tell what went wrong.
fn receive_request(
    connection: &mut Connection,
    agent: &Agent,
) -> Result<Request, Option<AgentError>> {
    let deadline = Instant::now() + PATIENCE;
    let mut greeted = false;
    loop {
        connection.receive().map_err(|_| None)?;
        while let Some(frame) = connection
            .next_frame()
            .map_err(|error| Some(violation(error)))?
        {
            match frame {
                HostFrame::Hello(hello) if !greeted => {
                    greeted = true;
                    if agent.is_init {
                        init::greet(&hello);
                    }
                }
                HostFrame::Request(request) if greeted => return Ok(*request),
                other => return Err(Some(violation(FrameError::Unexpected(other.kind())))),
            }
        }
        connection.wait(deadline).map_err(|_| None)?;
    }
}

/// Tells the host what it did wrong.
pub(crate) fn violation(error: FrameError) -> AgentError {
    AgentError::Protocol(error.to_string())
}
