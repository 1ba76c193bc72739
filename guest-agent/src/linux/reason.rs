//! The system's reasons, as text for people.

use std::io;

/// What the system says of an error, without its number.
pub(crate) fn reason(error: impl Into<io::Error>) -> String {
    let text = error.into().to_string();
    match text.find(" (os error ") {
        Some(end) => text.get(..end).unwrap_or(&text).to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_left_out() {
        assert_eq!(
            reason(rustix::io::Errno::NOENT),
            "No such file or directory"
        );
        assert_eq!(reason(io::Error::other("odd")), "odd");
    }
}
