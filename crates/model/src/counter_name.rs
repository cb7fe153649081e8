//! The name of a counter. The names of its queue and of its markers contain it.
//!
//! Invariant: every name that exists is valid in queue names, in marker names and in file names.

use std::fmt;
use std::sync::Arc;

/// The maximum number of characters in a counter's name.
pub const COUNTER_NAME_CHARS_MAX: usize = 64;

/// A counter's name: 1 to 64 ASCII letters, digits, `-` or `_`, starting with a letter or digit.
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterName(Arc<str>);

impl CounterName {
    /// Makes a name; `None` if `text` is not a valid one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let first = text.bytes().next()?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let allowed = first.is_ascii_alphanumeric()
            && text.len() <= COUNTER_NAME_CHARS_MAX
            && text.bytes().all(plain);
        allowed.then(|| Self(text.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CounterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CounterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_names() {
        for good in ["c1", "C-2_x", "9"] {
            assert_eq!(CounterName::new(good).expect("allowed").as_str(), good);
        }
        for bad in ["", "-c", "a.b", "a b", "é", &"x".repeat(65)] {
            assert_eq!(CounterName::new(bad), None, "{bad}");
        }
    }
}
