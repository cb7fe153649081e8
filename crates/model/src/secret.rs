//! The secret that the nodes of a cluster show each other.
//!
//! Invariant: no log line, error or `Debug` holds it; comparing it takes a time that says nothing
//! about it.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// The fewest characters of a cluster's secret.
pub const CLUSTER_SECRET_CHARS_MIN: usize = 16;

/// The most characters of a cluster's secret.
pub const CLUSTER_SECRET_CHARS_MAX: usize = 1_024;

/// What a node shows to be let in: 16 to 1,024 visible characters of ASCII, so that it fits into a
/// header. Cheap to clone.
#[derive(Clone)]
pub struct ClusterSecret {
    text: Arc<str>,
    hash: blake3::Hash,
}

/// Why a text can't be a cluster's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SecretError {
    /// It could be guessed.
    #[error("must have at least {CLUSTER_SECRET_CHARS_MIN} characters")]
    TooShort,
    /// It does not fit into a header.
    #[error("must have at most {CLUSTER_SECRET_CHARS_MAX} characters")]
    TooLong,
    /// It can't stand in a header.
    #[error("may only have visible ASCII characters, no spaces between them")]
    Unprintable,
}

impl ClusterSecret {
    /// The secret in `text`, without the space around it (files end with a line break).
    ///
    /// # Errors
    /// The first rule that `text` breaks.
    pub fn new(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SecretError::Unprintable);
        }
        if text.len() < CLUSTER_SECRET_CHARS_MIN {
            return Err(SecretError::TooShort);
        }
        if text.len() > CLUSTER_SECRET_CHARS_MAX {
            return Err(SecretError::TooLong);
        }
        Ok(Self {
            text: text.into(),
            hash: blake3::hash(text.as_bytes()),
        })
    }

    /// Whether `given` is the secret. Hashes are compared, in constant time as BLAKE3's own type
    /// does, so nothing tells how much of a guess was right.
    #[must_use]
    pub fn is(&self, given: &[u8]) -> bool {
        blake3::hash(given) == self.hash
    }

    /// The secret itself, for the header that shows it to another node.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_is_it_and_nothing_shows_it() {
        let secret = ClusterSecret::new(" 0123456789abcdef\n").expect("allowed");
        assert!(secret.is(b"0123456789abcdef"));
        for other in [&b""[..], b"0123456789abcde", b"0123456789abcdef\n"] {
            assert!(!secret.is(other));
        }
        assert_eq!(secret.reveal(), "0123456789abcdef");
        assert!(!format!("{secret:?}").contains("0123"));
    }

    #[test]
    fn what_is_guessed_or_fits_no_header_is_refused() {
        let refused = |text: &str| ClusterSecret::new(text).expect_err("refused");
        assert_eq!(refused("0123456789abcde  "), SecretError::TooShort);
        assert_eq!(refused(""), SecretError::TooShort);
        assert_eq!(refused(&"x".repeat(1_025)), SecretError::TooLong);
        for bad in [
            "0123456789 abcdef",
            "0123456789é012345",
            "0123456789\u{7f}012345",
        ] {
            assert_eq!(refused(bad), SecretError::Unprintable);
        }
    }
}
