//! Texts as other programs write them.
//!
//! Invariant: what is said of a text here holds for all of it, whoever it came from.

/// What some editors and programs put before UTF-8. It is no part of the text; of JSON it may be
/// skipped (RFC 8259, section 8.1).
pub const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Whether each `%` begins the code of a byte. What is not is no URI (RFC 3986, section 2.1), and
/// what was meant is not known.
#[must_use]
pub fn is_percent_encoded(text: &str) -> bool {
    let mut parts = text.split('%');
    // What comes before the first one is as it is.
    parts.next();
    parts.all(|after| {
        let code = after.as_bytes().get(..2);
        code.is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit))
    })
}
