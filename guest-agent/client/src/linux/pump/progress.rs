//! How far a session has come.

use std::time::Instant;

use agent_protocol::message::{ExitReport, Hello};

use crate::conversation::Event;
use crate::error::ClientError;

/// How a command ended, and when what happened.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended.
    pub report: ExitReport,
    /// What the agent said of itself, with the moments of its start.
    pub agent: Hello,
    /// The moments of this session on the host.
    pub moments: Moments,
}

/// Moments of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moments {
    /// The agent's greeting came.
    pub greeted: Instant,
    /// The command ran.
    pub started: Instant,
    /// The exit report came.
    pub ended: Instant,
}

/// What is known so far.
#[derive(Default)]
pub(super) struct SoFar {
    pub(super) agent: Option<Hello>,
    pub(super) greeted: Option<Instant>,
    pub(super) started: Option<Instant>,
    pub(super) ended: Option<Instant>,
    pub(super) report: Option<ExitReport>,
}

impl SoFar {
    /// Of a session with the agent that greeted so, whose command runs already; of a new one without.
    pub(super) fn new(agent: Option<Hello>) -> Self {
        let runs_since = agent.as_ref().map(|_| Instant::now());
        Self {
            agent,
            greeted: runs_since,
            started: runs_since,
            ..Self::default()
        }
    }

    /// The result, once the report is there. It is told once.
    pub(super) fn finished(&mut self) -> Option<Finished> {
        Some(Finished {
            report: self.report.take()?,
            agent: self.agent.take()?,
            moments: Moments {
                greeted: self.greeted?,
                started: self.started?,
                ended: self.ended?,
            },
        })
    }

    pub(super) fn note(&mut self, event: Event<'_>) -> Result<(), ClientError> {
        match event {
            Event::Hello(hello) => {
                self.agent = Some(hello);
                self.greeted = Some(Instant::now());
            }
            Event::Started { .. } => self.started = Some(Instant::now()),
            Event::Exited(report) => {
                self.report = Some(report);
                self.ended = Some(Instant::now());
            }
            Event::Refused(error) => return Err(ClientError::Refused(error)),
            Event::Output(..)
            | Event::InputWanted
            | Event::StdinClosed
            | Event::Pong
            | Event::Usage(_) => {}
        }
        Ok(())
    }
}
