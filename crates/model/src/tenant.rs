//! The name of a tenant, for which items are counted.
//!
//! Invariant: a `TenantName` has 1 to 256 characters without control characters and is never `.` or
//! `..`. Names are compared byte for byte; they are not trimmed, folded or normalised.

use std::borrow::Borrow;
use std::fmt;

use smol_str::SmolStr;

use super::{NameError, check_name};

/// The maximum number of characters (Unicode scalar values) in a tenant's name.
pub const TENANT_CHARS_MAX: usize = 256;

/// A valid tenant name; cheap to clone. Names of up to 23 bytes are stored inline, without an
/// allocation, because every item has one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantName(SmolStr);

/// Checks whether `text` is a valid tenant name.
///
/// # Errors
/// The first rule that `text` breaks.
pub fn check_tenant(text: &str) -> Result<(), NameError> {
    check_name(text, TENANT_CHARS_MAX)
}

impl TenantName {
    /// Makes a name from `text`.
    ///
    /// # Errors
    /// The first rule that `text` breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_tenant(text)?;
        Ok(Self(SmolStr::new(text)))
    }

    /// The name as the client wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TenantName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_by_characters_not_bytes() {
        assert!(TenantName::new(&"é".repeat(256)).is_ok());
        assert_eq!(
            TenantName::new(&"é".repeat(257)),
            Err(NameError::TooLong { chars_max: 256 })
        );
        assert_eq!(TenantName::new(""), Err(NameError::Empty));
    }

    #[test]
    fn control_characters_and_dots_are_refused() {
        for bad in ["a\u{0}", "\n", "a\u{7f}b", "é\u{85}"] {
            assert_eq!(TenantName::new(bad), Err(NameError::Control), "{bad:?}");
        }
        assert_eq!(TenantName::new("."), Err(NameError::Dots));
        assert_eq!(TenantName::new(".."), Err(NameError::Dots));
        assert!(TenantName::new("...").is_ok());
    }

    #[test]
    fn names_are_compared_byte_for_byte() {
        let composed = TenantName::new("\u{e9}");
        let decomposed = TenantName::new("e\u{301}");
        assert_ne!(composed, decomposed);
        assert_ne!(TenantName::new("a "), TenantName::new("a"));
        assert_ne!(TenantName::new("A"), TenantName::new("a"));
    }
}
