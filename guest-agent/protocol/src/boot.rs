//! What the host tells a guest's init: parameters on the kernel command line.
//!
//! All begin with `sovereign.`; Linux leaves parameters with a dot that no module claims alone. They
//! go behind `--`, where the arguments of init are: every word before it is compared with the names of
//! all the kernel's parameters, several times. A value is printable ASCII without blanks and quotes,
//! so that the kernel's quoting never matters.

use std::fmt;

use crate::frame::AGENT_PORT;

const PREFIX: &str = "sovereign.";

/// Linux, Documentation/admin-guide/kernel-parameters.rst: what follows goes to init.
const INIT_ARGUMENTS: &str = " -- ";

/// What init shall do before it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootParameters {
    /// `sovereign.root=DEVICE`, `sovereign.rootfstype=TYPE`: the read-only root file system. Without
    /// it the initramfs stays the root.
    pub root: Option<RootDisk>,
    /// `sovereign.overlay_mib=N`: the size bound of the writable layer (a tmpfs) over the root, in
    /// MiB. Without it the root stays read-only.
    pub overlay_mib: Option<u32>,
    /// `sovereign.upper=DEVICE`: a disk with an ext4 file system, on which the writable layer is instead;
    /// what is volatile stays in the tmpfs.
    pub upper: Option<String>,
    /// `sovereign.hostname=NAME`: the guest's host name.
    pub hostname: Option<String>,
    /// `sovereign.ready_port=N`: the host's vsock port to which the agent connects when it is ready,
    /// for the first session. [`AGENT_PORT`] unless said otherwise; 0 for no such connection.
    pub ready_port: u32,
    /// `sovereign.modules=DIRECTORY`: a folder of the initramfs with kernel modules, for kernels that
    /// have drivers as modules. Its file `order` names those to load, one in a line.
    pub modules: Option<String>,
    /// `sovereign.lanes=DEVICE`: the virtio-mmio window, as Linux calls it on its platform bus, of a disk
    /// of lanes for bulk data.
    pub lanes: Option<String>,
    /// `sovereign.trace`: report the moments of the start in [`Hello`](crate::message::Hello).
    pub trace: bool,
}

/// A block device with a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootDisk {
    /// The device node, such as `/dev/vda`.
    pub device: String,
    /// The file system's type, such as `erofs`.
    pub fstype: String,
}

impl BootParameters {
    /// The parameters as a part of a kernel command line, without blanks around it.
    ///
    /// # Errors
    ///
    /// [`BootError::BadValue`] if a value cannot be said there.
    pub fn encode(&self) -> Result<String, BootError> {
        let mut line = CommandLine(String::new());
        if let Some(root) = &self.root {
            line.push("root", &root.device)?;
            line.push("rootfstype", &root.fstype)?;
        }
        if let Some(mib) = self.overlay_mib {
            line.push("overlay_mib", &mib.to_string())?;
        }
        if let Some(upper) = &self.upper {
            line.push("upper", upper)?;
        }
        if let Some(hostname) = &self.hostname {
            line.push("hostname", hostname)?;
        }
        if self.ready_port != AGENT_PORT {
            line.push("ready_port", &self.ready_port.to_string())?;
        }
        if let Some(modules) = &self.modules {
            line.push("modules", modules)?;
        }
        if let Some(lanes) = &self.lanes {
            line.push("lanes", lanes)?;
        }
        if self.trace {
            line.push_flag("trace");
        }
        Ok(line.0)
    }

    /// The parameters behind what else a kernel is told.
    ///
    /// # Errors
    ///
    /// [`BootError::BadValue`] if a value cannot be said there.
    pub fn behind(&self, command_line: &str) -> Result<String, BootError> {
        let parameters = self.encode()?;
        let has_arguments = format!("{command_line} ").contains(INIT_ARGUMENTS);
        let separator = if has_arguments { " " } else { INIT_ARGUMENTS };
        Ok(match parameters.as_str() {
            "" => command_line.to_owned(),
            _ => format!("{command_line}{separator}{parameters}"),
        })
    }

    /// Finds the parameters in a kernel command line. Others' are passed over.
    ///
    /// # Errors
    ///
    /// [`BootError`] if one of ours is unknown, incomplete or has a value that makes no sense.
    pub fn decode(command_line: &str) -> Result<Self, BootError> {
        let mut parameters = Self::default();
        let mut device = None;
        let mut fstype = None;
        for word in command_line.split_ascii_whitespace() {
            let Some(word) = word.strip_prefix(PREFIX) else {
                continue;
            };
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "root" => device = Some(checked(key, value)?),
                "rootfstype" => fstype = Some(checked(key, value)?),
                "overlay_mib" => parameters.overlay_mib = Some(number(key, value)?),
                "upper" => parameters.upper = Some(checked(key, value)?),
                "hostname" => parameters.hostname = Some(checked(key, value)?),
                "ready_port" => parameters.ready_port = number(key, value)?,
                "modules" => parameters.modules = Some(checked(key, value)?),
                "lanes" => parameters.lanes = Some(checked(key, value)?),
                "trace" if value.is_empty() => parameters.trace = true,
                _ => return Err(BootError::Unknown(word.to_owned())),
            }
        }
        parameters.root = match (device, fstype) {
            (Some(device), Some(fstype)) => Some(RootDisk { device, fstype }),
            (None, None) => None,
            (Some(_), None) => return Err(BootError::Missing("rootfstype")),
            (None, Some(_)) => return Err(BootError::Missing("root")),
        };
        Ok(parameters)
    }
}

impl Default for BootParameters {
    fn default() -> Self {
        Self {
            root: None,
            overlay_mib: None,
            upper: None,
            hostname: None,
            ready_port: AGENT_PORT,
            modules: None,
            lanes: None,
            trace: false,
        }
    }
}

impl fmt::Display for RootDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} as {}", self.device, self.fstype)
    }
}

/// Collects words.
struct CommandLine(String);

impl CommandLine {
    fn push(&mut self, key: &str, value: &str) -> Result<(), BootError> {
        let value = checked(key, value)?;
        self.push_flag(key);
        self.0.push('=');
        self.0.push_str(&value);
        Ok(())
    }

    fn push_flag(&mut self, key: &str) {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        self.0.push_str(PREFIX);
        self.0.push_str(key);
    }
}

fn checked(key: &str, value: &str) -> Result<String, BootError> {
    let sayable = |c: char| c.is_ascii_graphic() && c != '"' && c != '\'';
    if value.is_empty() || !value.chars().all(sayable) {
        return Err(BootError::BadValue {
            key: key.to_owned(),
            value: value.to_owned(),
        });
    }
    Ok(value.to_owned())
}

fn number(key: &str, value: &str) -> Result<u32, BootError> {
    value.parse().map_err(|_| BootError::BadValue {
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

/// Why parameters cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    /// A value is not a number where one is needed, is empty, or holds what a kernel command line
    /// cannot.
    #[error("boot parameter {PREFIX}{key} cannot be {value:?}")]
    BadValue {
        /// The parameter, without its prefix.
        key: String,
        /// Its value.
        value: String,
    },
    /// A parameter of ours that this agent does not know.
    #[error("unknown boot parameter {PREFIX}{0}")]
    Unknown(String),
    /// A parameter makes no sense without this one.
    #[error("boot parameter {PREFIX}{0} is missing")]
    Missing(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn parameters()(
            root in prop::option::of(("/dev/[a-z0-9]{1,8}", "[a-z0-9]{1,8}")),
            overlay_mib in any::<Option<u32>>(),
            upper in prop::option::of("/dev/[a-z0-9]{1,8}"),
            hostname in prop::option::of("[a-zA-Z0-9.=-]{1,64}"),
            ready_port in any::<u32>(),
            modules in prop::option::of("/[a-z/]{0,20}"),
            lanes in prop::option::of("[a-z.0-9-]{1,20}"),
            trace in any::<bool>(),
        ) -> BootParameters {
            let root = root.map(|(device, fstype)| RootDisk { device, fstype });
            BootParameters { root, overlay_mib, upper, hostname, ready_port, modules, lanes, trace }
        }
    }

    #[test]
    fn text_is_fixed() {
        let parameters = BootParameters {
            root: Some(RootDisk {
                device: "/dev/vda".into(),
                fstype: "erofs".into(),
            }),
            overlay_mib: Some(512),
            hostname: Some("box".into()),
            trace: true,
            ..BootParameters::default()
        };
        assert_eq!(
            parameters.encode().unwrap(),
            "sovereign.root=/dev/vda sovereign.rootfstype=erofs sovereign.overlay_mib=512 \
             sovereign.hostname=box sovereign.trace"
        );
        assert_eq!(BootParameters::default().encode().unwrap(), "");
    }

    #[test]
    fn parameters_are_arguments_of_init() {
        let parameters = BootParameters {
            overlay_mib: Some(64),
            ..BootParameters::default()
        };
        let rows = [
            ("quiet", "quiet -- sovereign.overlay_mib=64"),
            ("quiet -- debug", "quiet -- debug sovereign.overlay_mib=64"),
            ("quiet --", "quiet -- sovereign.overlay_mib=64"),
        ];
        for (line, expected) in rows {
            assert_eq!(parameters.behind(line).unwrap(), expected);
            assert_eq!(BootParameters::decode(expected).unwrap(), parameters);
        }
        assert_eq!(BootParameters::default().behind("quiet").unwrap(), "quiet");
    }

    #[test]
    fn value_that_would_split_the_line_is_refused() {
        for hostname in ["", "a b", "a\"b", "a\nb", "ä"] {
            let parameters = BootParameters {
                hostname: Some(hostname.to_owned()),
                ..BootParameters::default()
            };
            assert!(
                matches!(parameters.encode(), Err(BootError::BadValue { .. })),
                "{hostname:?}"
            );
        }
    }

    #[test]
    fn mistakes_are_named() {
        let error = |line| BootParameters::decode(line).unwrap_err().to_string();
        assert_eq!(
            error("sovereign.rot=/dev/vda"),
            "unknown boot parameter sovereign.rot=/dev/vda"
        );
        assert_eq!(
            error("sovereign.root=/dev/vda"),
            "boot parameter sovereign.rootfstype is missing"
        );
        assert_eq!(
            error("sovereign.overlay_mib=many"),
            "boot parameter sovereign.overlay_mib cannot be \"many\""
        );
    }

    proptest! {
        #[test]
        fn parameters_survive_among_others(ours in parameters()) {
            let line = format!("console=ttyS0 root=/dev/x {} quiet\n", ours.encode().unwrap());
            prop_assert_eq!(BootParameters::decode(&line).unwrap(), ours);
        }

        #[test]
        fn arbitrary_lines_never_panic(line in ".{0,300}") {
            let _ = BootParameters::decode(&line);
        }
    }
}
