//! What init reads: a kernel command line.

#![no_main]

use agent_protocol::boot::BootParameters;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| {
    if let Ok(parameters) = BootParameters::decode(line) {
        let again = parameters.encode().unwrap();
        assert_eq!(BootParameters::decode(&again), Ok(parameters));
    }
});
