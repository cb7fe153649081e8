//! Addresses that contain a user and a password.
//!
//! Invariant: an ambiguous address is rejected. A wrong reading would take a part of the password
//! for the host and show it.

use super::is_percent_encoded;

/// Whether `address`, `scheme://user:password@host:port/path`, is unambiguous: all delimiters in
/// the user and the password are percent-encoded, and every `%` begins a percent-encoding.
#[must_use]
pub fn is_unambiguous(address: &str) -> bool {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let authority_bytes = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(authority_bytes);
    let at_once = authority.matches('@').count() <= 1;
    at_once && !behind.contains(['@', '#']) && is_percent_encoded(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_user_or_a_password_must_be_encoded() {
        for right in [
            "amqp://broker",
            "amqp://me:a%40b%2Fc%23d%3fe%25f%2cg@broker:5672/%2f",
            "amqp://me:a:b!c$d&e@[::1]:5672/v?x=1",
            "http://me@host:15672/path/",
        ] {
            assert!(is_unambiguous(right), "{right}");
        }
        for wrong in [
            "amqp://me:12@3@broker",
            "amqp://me:12/3@broker",
            "amqp://me:12#3@broker",
            "amqp://me:12#3",
            "amqp://me:12?3@broker",
            "amqp://me:100%@broker",
            "amqp://me:50%off@broker",
            "amqp://me:a%4",
        ] {
            assert!(!is_unambiguous(wrong), "{wrong}");
        }
    }
}
