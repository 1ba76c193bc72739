//! What host and guest agent say to each other.
//!
//! One stream is one session. Both sides send a `Hello` at once; then the host sends one
//! [`Request`], and the frames that belong to it follow until the agent's last one. Data is moved in
//! frames of at most [`MAX_DATA`] bytes, and only as much as the receiver has granted as credit, so
//! that a stalled stream stalls neither the other streams nor control frames.

pub mod boot;
pub mod frame;
pub mod message;
