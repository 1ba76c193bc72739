//! One session: greeting, one request, its answer.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agent_protocol::frame::{FrameError, REQUEST_PATIENCE};
use agent_protocol::from_agent::AgentFrame;
use agent_protocol::from_host::HostFrame;
use agent_protocol::message::{AgentError, ExecRequest, Hello, Request, TracePoint};
use serde_bytes::ByteBuf;

use crate::linux::connection::Connection;
use crate::linux::exec;
use crate::linux::files;
use crate::linux::init;
use crate::linux::sys::SignalFd;
use crate::linux::usage;

/// How long a host may take to take the last frame.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a session needs to know of the agent.
#[derive(Debug, Default)]
pub(crate) struct Agent {
    /// Whether this agent is the guest's init, and so owns its clock and random pool.
    pub(crate) is_init: bool,
    /// The moments of its start, for those who asked for them.
    pub(crate) trace: Vec<TracePoint>,
    /// What commands get that do not say otherwise.
    pub(crate) defaults: Defaults,
    /// The virtio-mmio window of the lane disk, if the machine has one.
    pub(crate) lanes: Option<String>,
}

/// What a command gets that does not say otherwise.
#[derive(Debug, Default)]
pub(crate) struct Defaults {
    /// A folder of Python modules, for `PYTHONPATH`.
    pub(crate) modules: Option<Vec<u8>>,
    /// The user, in place of what the sandbox's account files say.
    pub(crate) user: Option<String>,
    /// That user's home, where it also starts.
    pub(crate) home: Option<Vec<u8>>,
}

impl Defaults {
    fn apply(&self, request: &mut ExecRequest) {
        if let Some(modules) = &self.modules {
            set_unless_set(request, "PYTHONPATH", modules);
        }
        if request.user.is_some() {
            return;
        }
        request.user.clone_from(&self.user);
        if let Some(home) = &self.home {
            request
                .cwd
                .get_or_insert_with(|| ByteBuf::from(home.clone()));
            set_unless_set(request, "HOME", home);
        }
    }
}

fn set_unless_set(request: &mut ExecRequest, name: &str, value: &[u8]) {
    let is_set = request
        .env
        .iter()
        .any(|(known, _)| known.as_ref() == name.as_bytes());
    if !is_set {
        request
            .env
            .push((ByteBuf::from(name), ByteBuf::from(value)));
    }
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
        Ok(Request::Usage) => {
            let lanes = agent.lanes.as_deref();
            let usage = usage::measure(agent.is_init, lanes);
            connection.push(&AgentFrame::Usage(usage));
            finish(connection);
            Verdict::Done
        }
        Ok(Request::PowerOff) => {
            finish(connection);
            Verdict::PowerOff
        }
        Ok(Request::Exec(mut request)) => {
            agent.defaults.apply(&mut request);
            exec::serve(connection, &request, signals, agent.is_init);
            Verdict::Done
        }
        Ok(Request::Files(mut request)) => {
            let mut identity = ExecRequest::new(["files"]);
            identity.user = request.user.take();
            // A lane's reader says by the other stream what it has taken.
            identity.stdin = request.operation.takes_input() || request.lane;
            agent.defaults.apply(&mut identity);
            let lanes = agent.lanes.as_deref();
            files::serve(connection, &identity, &request, signals, lanes);
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
    let deadline = Instant::now() + REQUEST_PATIENCE;
    let mut greeted = false;
    loop {
        connection.receive_with_descriptor().map_err(|_| None)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Defaults {
        Defaults {
            user: Some("0".to_owned()),
            home: Some(b"/tmp/x".to_vec()),
            modules: None,
        }
    }

    #[test]
    fn modules_are_for_every_user_but_not_for_who_has_others() {
        let defaults = Defaults {
            modules: Some(b"/m".to_vec()),
            ..defaults()
        };
        let path = |value: &str| (ByteBuf::from("PYTHONPATH"), ByteBuf::from(value));
        let mut request = ExecRequest {
            user: Some("nobody".to_owned()),
            ..ExecRequest::new(["true"])
        };
        defaults.apply(&mut request);
        assert_eq!(request.env, [path("/m")]);
        request.env = vec![path("")];
        defaults.apply(&mut request);
        assert_eq!(request.env, [path("")]);
    }

    #[test]
    fn a_request_that_names_nothing_gets_the_defaults() {
        let mut request = ExecRequest::new(["true"]);
        defaults().apply(&mut request);
        assert_eq!(request.user.as_deref(), Some("0"));
        assert_eq!(request.cwd, Some(ByteBuf::from("/tmp/x")));
        assert_eq!(
            request.env,
            [(ByteBuf::from("HOME"), ByteBuf::from("/tmp/x"))]
        );
    }

    #[test]
    fn what_a_request_names_stays() {
        let named = ExecRequest {
            env: vec![(ByteBuf::from("HOME"), ByteBuf::from("/h"))],
            cwd: Some(ByteBuf::from("/w")),
            ..ExecRequest::new(["true"])
        };
        let mut request = named.clone();
        defaults().apply(&mut request);
        assert_eq!((&request.cwd, &request.env), (&named.cwd, &named.env));
        let of_another = ExecRequest {
            user: Some("nobody".to_owned()),
            ..ExecRequest::new(["true"])
        };
        let mut request = of_another.clone();
        defaults().apply(&mut request);
        assert_eq!(request, of_another);
    }
}
