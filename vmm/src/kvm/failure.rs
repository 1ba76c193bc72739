//! What KVM says when it cannot go on with a vCPU.

// UNSAFETY: the reason lies in a union whose member is chosen by the exit reason.
#![expect(unsafe_code, reason = "reads a union of kvm_run")]

use std::fmt::Write;

use kvm_bindings::{
    KVM_EXIT_INTERNAL_ERROR, KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_SIMUL_EX, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, kvm_run,
};

/// `KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES`: the failed instruction follows.
const HAS_INSTRUCTION_BYTES: u64 = 1;

/// The longest x86 instruction.
const MAX_INSTRUCTION: usize = 15;

/// Tells in words what a `KVM_EXIT_INTERNAL_ERROR` was about.
#[must_use]
pub fn internal_error(run: &kvm_run) -> String {
    if run.exit_reason != KVM_EXIT_INTERNAL_ERROR {
        return format!("exit reason {}", run.exit_reason);
    }
    // SAFETY: the exit reason says that this member of the union is the valid one, and all of its
    // fields are integers.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let data = internal.data;
    let given = usize::try_from(internal.ndata)
        .unwrap_or(usize::MAX)
        .min(data.len());
    let data = data.get(..given).unwrap_or_default();
    let kind = match internal.suberror {
        KVM_INTERNAL_ERROR_EMULATION => "emulation failure",
        KVM_INTERNAL_ERROR_SIMUL_EX => "simultaneous exceptions",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "event delivery",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "unexpected exit reason",
        _ => "unknown",
    };
    let mut text = format!(
        "KVM internal error, sub-error {} ({kind})",
        internal.suberror
    );
    if internal.suberror == KVM_INTERNAL_ERROR_EMULATION {
        append_instruction(&mut text, data);
    } else if !data.is_empty() {
        let _ = write!(text, ", data {data:x?}");
    }
    text
}

/// `data` is flags, then one byte of length and the instruction's bytes.
fn append_instruction(text: &mut String, data: &[u64]) {
    let [flags, rest @ ..] = data else { return };
    if flags & HAS_INSTRUCTION_BYTES == 0 {
        return;
    }
    let mut bytes = rest.iter().flat_map(|word| word.to_le_bytes());
    let length = bytes.next().map_or(0, usize::from).min(MAX_INSTRUCTION);
    let _ = write!(text, ", instruction bytes");
    for byte in bytes.take(length) {
        let _ = write!(text, " {byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with(suberror: u32, data: &[u64]) -> kvm_run {
        let mut run = kvm_run {
            exit_reason: KVM_EXIT_INTERNAL_ERROR,
            ..kvm_run::default()
        };
        run.__bindgen_anon_1.internal.suberror = suberror;
        run.__bindgen_anon_1.internal.ndata = u32::try_from(data.len()).unwrap();
        // SAFETY: all members of the union are plain integers, and `internal` was just written.
        let internal = unsafe { &mut run.__bindgen_anon_1.internal };
        internal.data[..data.len().min(16)].copy_from_slice(&data[..data.len().min(16)]);
        run
    }

    #[test]
    fn emulation_failure_names_the_instruction() {
        let bytes = u64::from_le_bytes([2, 0x0f, 0x0b, 0xff, 0, 0, 0, 0]);
        assert_eq!(
            internal_error(&run_with(KVM_INTERNAL_ERROR_EMULATION, &[1, bytes, 0])),
            "KVM internal error, sub-error 1 (emulation failure), instruction bytes 0f 0b"
        );
    }

    #[test]
    fn lying_lengths_are_bounded() {
        let mut run = run_with(KVM_INTERNAL_ERROR_EMULATION, &[1, u64::MAX, u64::MAX]);
        run.__bindgen_anon_1.internal.ndata = u32::MAX;
        let text = internal_error(&run);
        assert_eq!(text.matches("ff").count(), MAX_INSTRUCTION);
    }

    #[test]
    fn other_errors_give_their_data() {
        assert_eq!(
            internal_error(&run_with(KVM_INTERNAL_ERROR_DELIVERY_EV, &[0x10])),
            "KVM internal error, sub-error 3 (event delivery), data [10]"
        );
    }
}
