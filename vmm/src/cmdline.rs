//! The kernel's command line.

use linux_loader::cmdline::{self, Cmdline};
use vm_memory::GuestAddress;

/// The longest command line that x86 kernels take, with its terminating zero (`COMMAND_LINE_SIZE`).
/// They cut off what is beyond it without a word.
pub const MAX_COMMAND_LINE: usize = 2048;

/// A command line cannot be handed to a kernel.
#[derive(Debug, thiserror::Error)]
pub enum CmdlineError {
    /// Too long, by itself or with the devices that the VMM adds.
    #[error("the kernel's command line is longer than {} bytes with its devices", MAX_COMMAND_LINE - 1)]
    TooLong,
    /// Not printable ASCII.
    #[error("the kernel's command line has a character that is not printable ASCII")]
    NotAscii,
    /// Not a command line for another reason.
    #[error("the kernel's command line is not valid")]
    Invalid(#[source] cmdline::Error),
}

/// A command line within its bounds.
#[derive(Debug, Clone)]
pub struct CommandLine {
    line: Cmdline,
}

impl CommandLine {
    /// Takes what the user wants; arguments for init follow ` -- `.
    ///
    /// # Errors
    /// When it is too long or holds characters that do not belong there.
    pub fn parse(text: &str) -> Result<Self, CmdlineError> {
        if !text.chars().all(|c| matches!(c, ' '..='~')) {
            return Err(CmdlineError::NotAscii);
        }
        let line = Cmdline::try_from(text, MAX_COMMAND_LINE).map_err(|error| match error {
            cmdline::Error::InvalidCapacity => CmdlineError::TooLong,
            other => too_long_or(other),
        })?;
        Ok(Self { line })
    }

    /// Tells the kernel of a virtio-mmio device (`virtio_mmio.device=` of Linux).
    ///
    /// # Errors
    /// When the line gets too long.
    pub fn add_virtio_mmio(
        &mut self,
        base: GuestAddress,
        size: u64,
        gsi: u32,
    ) -> Result<(), CmdlineError> {
        self.line
            .add_virtio_mmio_device(size, base, gsi, None)
            .map_err(too_long_or)
    }

    /// The bytes for the guest, with the terminating zero.
    ///
    /// # Errors
    /// When the line is not valid.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CmdlineError> {
        self.line
            .as_cstring()
            .map(|line| line.into_bytes_with_nul())
            .map_err(too_long_or)
    }
}

fn too_long_or(error: cmdline::Error) -> CmdlineError {
    match error {
        cmdline::Error::TooLarge => CmdlineError::TooLong,
        cmdline::Error::InvalidAscii => CmdlineError::NotAscii,
        other => CmdlineError::Invalid(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: GuestAddress = GuestAddress(0xd000_0000);

    #[test]
    fn devices_go_before_the_arguments_of_init() {
        let mut line = CommandLine::parse("quiet -- now").unwrap();
        line.add_virtio_mmio(BASE, 4096, 5).unwrap();
        assert_eq!(
            line.to_bytes().unwrap(),
            b"quiet virtio_mmio.device=4K@0xd0000000:5 -- now\0"
        );
    }

    #[test]
    fn longest_line_fits_and_one_more_byte_does_not() {
        let longest = "a".repeat(MAX_COMMAND_LINE - 1);
        assert_eq!(
            CommandLine::parse(&longest)
                .unwrap()
                .to_bytes()
                .unwrap()
                .len(),
            MAX_COMMAND_LINE
        );
        assert!(matches!(
            CommandLine::parse(&(longest + "a")),
            Err(CmdlineError::TooLong)
        ));
    }

    #[test]
    fn device_beyond_the_limit_is_refused() {
        let mut line = CommandLine::parse(&"a".repeat(MAX_COMMAND_LINE - 20)).unwrap();
        assert!(matches!(
            line.add_virtio_mmio(BASE, 4096, 5),
            Err(CmdlineError::TooLong)
        ));
    }

    #[test]
    fn control_characters_are_refused() {
        assert!(matches!(
            CommandLine::parse("quiet\0init=/x"),
            Err(CmdlineError::NotAscii)
        ));
        assert!(matches!(
            CommandLine::parse("a\nb"),
            Err(CmdlineError::NotAscii)
        ));
    }
}
