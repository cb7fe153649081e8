//! The shared secret by which the nodes of a cluster authenticate each other.
//!
//! Invariant: no log line, error or `Debug` output contains the secret. The duration of a
//! comparison reveals nothing about it.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// The minimum number of characters in a cluster's secret.
pub const CLUSTER_SECRET_CHARS_MIN: usize = 16;

/// The maximum number of characters in a cluster's secret.
pub const CLUSTER_SECRET_CHARS_MAX: usize = 1_024;

/// The secret of a cluster: 16 to 1,024 visible ASCII characters, so that it is valid in a header.
/// Cheap to clone.
#[derive(Clone)]
pub struct ClusterSecret {
    text: Arc<str>,
    hash: blake3::Hash,
}

/// Why a text is not a valid secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SecretError {
    /// The text is too short to be safe from guessing.
    #[error("must have at least {CLUSTER_SECRET_CHARS_MIN} characters")]
    TooShort,
    /// The text is too long for a header.
    #[error("must have at most {CLUSTER_SECRET_CHARS_MAX} characters")]
    TooLong,
    /// The text contains characters that are not valid in a header.
    #[error("must contain only visible ASCII characters, without spaces between them")]
    Unprintable,
}

impl ClusterSecret {
    /// Makes a secret of `text` without surrounding white space (files end with a line break).
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

    /// Whether `given` is the secret. It compares hashes, with the constant-time comparison of
    /// BLAKE3's hash type, so the duration does not reveal how much of a guess was right.
    #[must_use]
    pub fn is(&self, given: &[u8]) -> bool {
        blake3::hash(given) == self.hash
    }

    /// Returns the secret itself, for the header of requests to other nodes.
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
