//! Carries out what the owner commands.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};

use super::channel::{Channel, ChannelError, Received};
use crate::control::{Command, Event};
use crate::machine::{EventLoop, MachineHandle};

/// Why the machine ends, when it is neither the guest's nor the owner's wish.
#[derive(Debug)]
pub(super) enum Ending {
    /// The owner has gone.
    OwnerGone,
    /// The owner cannot be understood.
    Broken(ChannelError),
}

/// Listens to the owner while the machine runs.
pub(super) struct Controller {
    pub(super) channel: Channel,
    pub(super) ending: Option<Ending>,
    machine: MachineHandle,
}

impl Controller {
    pub(super) fn new(channel: Channel, machine: MachineHandle) -> Self {
        Self {
            channel,
            ending: None,
            machine,
        }
    }

    /// Gives the controller its place in the machine's event loop.
    pub(super) fn subscribe(
        controller: &Arc<Mutex<Self>>,
        events: &mut EventLoop,
    ) -> Result<(), event_manager::Error> {
        let id =
            events.add_subscriber(Arc::clone(controller) as Arc<Mutex<dyn MutEventSubscriber>>);
        let lock = controller
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let interest = Events::new(&lock.channel, EventSet::IN);
        events.event_ops(id)?.add(interest)
    }

    /// Carries out all commands that have been received.
    pub(super) fn take_commands(&mut self) {
        while self.ending.is_none() {
            match self.channel.try_receive() {
                Ok(Received::Command(command, descriptor)) => self.obey(&command, descriptor),
                Ok(Received::Nothing) => return,
                Ok(Received::Closed) => self.end(Ending::OwnerGone),
                Err(error) => self.end(Ending::Broken(error)),
            }
        }
    }

    fn obey(&mut self, command: &Command, descriptor: Option<OwnedFd>) {
        match (command, descriptor) {
            (Command::Accept { port }, Some(stream)) => self.machine.accept_stream(*port, stream),
            (Command::Connect { port }, Some(stream)) => self.machine.connect_stream(*port, stream),
            (Command::Console, Some(pipe)) => self.machine.copy_console(pipe),
            (Command::Pause, None) => match self.machine.pause() {
                Ok(()) => self.tell(&Event::Paused),
                Err(_) => self.machine.stop(),
            },
            (Command::Resume, None) => {
                self.machine.resume();
                self.tell(&Event::Resumed);
            }
            (Command::Stop, None) => self.machine.stop(),
            (Command::Start { .. }, _)
            | (Command::Accept { .. } | Command::Connect { .. } | Command::Console, None)
            | (Command::Pause | Command::Resume | Command::Stop, Some(_)) => {
                self.end(Ending::Broken(ChannelError::OutOfPlace));
            }
        }
    }

    fn tell(&mut self, event: &Event) {
        if let Err(error) = self.channel.send(event) {
            self.end(Ending::Broken(error));
        }
    }

    fn end(&mut self, ending: Ending) {
        self.ending = Some(ending);
        self.machine.stop();
    }
}

impl MutEventSubscriber for Controller {
    /// [`Controller::subscribe`] registers the channel, since it can report a failure.
    fn init(&mut self, _ops: &mut EventOps<'_>) {}

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        self.take_commands();
    }
}
