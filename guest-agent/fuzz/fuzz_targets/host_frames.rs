//! What an agent reads: a hostile host's bytes, cut as the first byte says.

#![no_main]

use agent_protocol::from_host::HostFrame;
use agent_protocol::reader::FrameReader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((step, mut rest)) = input.split_first() else { return };
    let step = usize::from(*step).max(1);
    let mut reader = FrameReader::new();
    while !rest.is_empty() {
        let space = reader.space();
        assert!(!space.is_empty());
        let count = step.min(rest.len()).min(space.len());
        let (now, later) = rest.split_at(count);
        space[..count].copy_from_slice(now);
        reader.filled(count);
        rest = later;
        loop {
            match reader.next_frame() {
                Ok(Some((kind, payload))) => {
                    if let Ok(frame) = HostFrame::decode(kind, payload) {
                        // What was understood can be said again, and means the same.
                        let mut wire = Vec::new();
                        frame.encode(&mut wire).unwrap();
                        assert_eq!(HostFrame::decode(kind, &wire[8..]).as_ref(), Ok(&frame));
                    }
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});
