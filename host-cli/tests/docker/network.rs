//! A bridge of this machine's kernel, for one engine alone.

use std::process::{Command, Stdio};

use sovereign_engines::Engine;

/// Whether an engine can have one here. Podman makes its own, on the machine's firewall.
pub(crate) fn is_possible(engine: Engine) -> bool {
    engine == Engine::Docker && OwnBridge::new().is_some()
}

/// The bridge. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct OwnBridge(String);

impl OwnBridge {
    /// Makes one, with an address of a network for documentation (RFC 5737), if this machine can.
    pub(crate) fn new() -> Option<Self> {
        let bridge = Self(format!("sv{}", std::process::id()));
        let name = bridge.name();
        let made = ip(&["link", "add", name, "type", "bridge"])
            && ip(&["address", "add", "203.0.113.1/24", "dev", name])
            && ip(&["link", "set", name, "up"]);
        made.then_some(bridge)
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for OwnBridge {
    fn drop(&mut self) {
        ip(&["link", "delete", &self.0]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
