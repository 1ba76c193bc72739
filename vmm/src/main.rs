//! The VMM process: one a sandbox.
fn main() {}
