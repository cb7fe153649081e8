//! Conventions for texts from other programs.
//!
//! Invariant: each rule applies to the whole text, independent of its source.

/// The mark that some editors and programs write before UTF-8 text. It is not part of the text.
/// JSON parsers may ignore it (RFC 8259, section 8.1).
pub const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Whether each `%` begins the percent-encoding of a byte. A text with another `%` is not a URI
/// (RFC 3986, section 2.1), and its meaning is unknown.
#[must_use]
pub fn is_percent_encoded(text: &str) -> bool {
    let mut parts = text.split('%');
    // The part before the first `%` has no encoding to check.
    parts.next();
    parts.all(|after| {
        let code = after.as_bytes().get(..2);
        code.is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit))
    })
}
