//! What only the lab's emulator can have done.
//!
//! A failure that a guest's own words prove to be the emulator's is no verdict about Sovereign.
//! QEMU's emulation of nested guests loses a guest's flags once in some thousand boots: the guest
//! then panics at the next IRET, with flags that no processor can hold, or that Linux never has.

/// Bits of RFLAGS that are always zero, and the one that is always set (AMD64 Architecture
/// Programmer's Manual, volume 2, section 3.1.6).
const ALWAYS_ZERO: u64 = !0x3f_ffff | 1 << 15 | 1 << 5 | 1 << 3;
const ALWAYS_ONE: u64 = 1 << 1;
/// IOPL, VM, VIF and VIP: 64-bit Linux uses none of them, and user space cannot set them.
const NEVER_IN_LINUX: u64 = 0b11 << 12 | 1 << 17 | 1 << 19 | 1 << 20;

/// How Linux names the flags when it shows registers.
const FLAGS: &str = "EFLAGS: ";

/// Returns whether a guest's console, quoted in a failure, shows flags that no Linux can have.
pub(super) fn shows_impossible_flags(failure: &str) -> bool {
    failure.split(FLAGS).skip(1).any(|rest| {
        let digits = rest.split(|character: char| !character.is_ascii_hexdigit());
        let flags = digits.take(1).map(|digits| u64::from_str_radix(digits, 16));
        flags.flatten().any(are_impossible)
    })
}

fn are_impossible(flags: u64) -> bool {
    flags & (ALWAYS_ZERO | NEVER_IN_LINUX) != 0 || flags & ALWAYS_ONE == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_bit_is_seen() {
        let failure = r"  | RSP: 0000:ffffffff81803d80 EFLAGS: 0014e082\n  | RAX: 0000000000000010";
        assert!(shows_impossible_flags(failure));
    }

    #[test]
    fn flags_that_linux_never_has_are_seen() {
        assert!(shows_impossible_flags(
            "RSP: 0000:ffffffff81803d80 EFLAGS: 00145082"
        ));
    }

    #[test]
    fn panic_of_its_own_is_a_failure() {
        for flags in ["00010246", "00000002", "00050282"] {
            let failure = format!("RSP: 0018:ffffc90000013e50 EFLAGS: {flags}\nRAX: 0");
            assert!(!shows_impossible_flags(&failure), "{flags}");
        }
        assert!(!shows_impossible_flags("it printed EFLAGS: nothing"));
        assert!(!shows_impossible_flags("no registers at all"));
    }

    #[test]
    fn cleared_fixed_bit_is_seen() {
        assert!(shows_impossible_flags("EFLAGS: 00000000\n"));
    }
}
