//! Arguments that must arrive as they are.

use proptest::prelude::*;

/// Lists of arguments that a shell, a parser or a decoder would not leave alone.
#[must_use = "a strategy does nothing by itself"]
pub fn arguments() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let odd = prop::sample::select(vec![
        &b""[..],
        b" ",
        b"--",
        b"-c",
        b"--help",
        b"'",
        b"\"",
        b"\\",
        b";",
        b"$(id)",
        b"`id`",
        b"*",
        b"~",
        b"\n",
        b"\r\n",
        b"%s",
        b"${HOME}",
        b"&& true",
        b"\xff\xfe",
        b"=",
        b"A=1",
    ]);
    let bytes = prop::collection::vec(1_u8..=255, 0..40);
    let argument = prop_oneof![odd.prop_map(<[u8]>::to_vec), bytes];
    prop::collection::vec(argument, 1..8)
}
