//! What a host reads: a hostile guest's bytes, through the client's whole state machine.

#![no_main]

use agent_client::conversation::{Conversation, Event};
use agent_protocol::credit::INITIAL_CREDIT;
use agent_protocol::message::{ExecRequest, Hello, OutputStream, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let request = ExecRequest { stdin: true, ..ExecRequest::new(["x"]) };
    let mut conversation = Conversation::new(Hello::new(), Request::Exec(request)).unwrap();
    let mut rest = input;
    let mut unconsumed = [0_usize; 2];
    while !rest.is_empty() {
        let space = conversation.space();
        let count = rest.len().min(space.len());
        let (now, later) = rest.split_at(count);
        space[..count].copy_from_slice(now);
        conversation.filled(count);
        rest = later;
        loop {
            let stream = match conversation.next_event() {
                Ok(Some(Event::Output(stream, data))) => {
                    unconsumed[stream as usize] += data.len();
                    stream
                }
                Ok(Some(_)) => continue,
                Ok(None) => break,
                Err(_) => return,
            };
            // Nobody reads standard error: no more than a window of it may ever come.
            assert!(unconsumed[1] <= INITIAL_CREDIT as usize);
            if stream == OutputStream::Stdout {
                conversation.consumed(stream, unconsumed[0]);
                unconsumed[0] = 0;
            }
            let outgoing = conversation.outgoing().len();
            conversation.sent(outgoing);
        }
        assert!(conversation.input_wanted() <= INITIAL_CREDIT as usize);
    }
});
