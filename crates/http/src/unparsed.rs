//! Adds a problem to the responses to bytes that are not a request. The HTTP library sends these
//! responses on its own, with a status and without a body.
//!
//! Invariant: such a response is recognised by its head, which has no header `Server`; all
//! responses of this service have one. Its status and its other headers stay the same. A malformed
//! HEAD is also answered with a body, because the method is not known here.

use std::io::IoSlice;

use axum::http::StatusCode;

use super::error::{PROBLEM_JSON, Problem, to_json};
use super::fast_path::SERVER;

/// Maximum size of a head that the HTTP library generates, in bytes.
const HEAD_BYTES_MAX: usize = 256;
/// The end of a head.
const END: &str = "\r\n\r\n";
/// The beginning of a head.
const BEGIN: &[u8] = b"HTTP/1.";
/// The header of a response without a body, as the HTTP library writes it.
const NO_BODY: &str = "content-length: 0\r\n";
/// The beginning of the header `Server`.
const WHO: &str = "\r\nserver: ";

/// Returns the bytes that replace `slices`, if these end with a response that the HTTP library
/// generated.
pub(super) fn answer(slices: &[IoSlice<'_>]) -> Option<Vec<u8>> {
    let last = slices.iter().rev().find(|slice| !slice.is_empty())?;
    // Nearly all other responses end with a body.
    if !last.ends_with(END.as_bytes()) {
        return None;
    }
    let tail = &last[last.len().saturating_sub(HEAD_BYTES_MAX)..];
    let begin = tail.windows(BEGIN.len()).rposition(|part| part == BEGIN)?;
    let head = std::str::from_utf8(&tail[begin..]).ok()?;
    let is_whole = head.find(END)? + END.len() == head.len();
    if !is_whole || head.contains(WHO) || !head.contains(NO_BODY) {
        return None;
    }
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = to_json(&problem(status)?);
    let length = body.len();
    let headers =
        format!("content-type: {PROBLEM_JSON}\r\ncontent-length: {length}\r\nserver: {SERVER}\r\n");
    let written = slices.iter().map(|slice| slice.len()).sum::<usize>() - head.len();
    let mut bytes = Vec::with_capacity(written + 2 * HEAD_BYTES_MAX);
    for slice in slices {
        bytes.extend_from_slice(slice);
    }
    bytes.truncate(written);
    bytes.extend_from_slice(head.replacen(NO_BODY, &headers, 1).as_bytes());
    bytes.extend_from_slice(&body);
    Some(bytes)
}

fn problem(status: StatusCode) -> Option<Problem> {
    let (kind, title, detail) = match status {
        StatusCode::BAD_REQUEST => (
            "invalid-request",
            "This is no request",
            "The request line or a header is not valid HTTP/1.1 (RFC 9112).",
        ),
        StatusCode::URI_TOO_LONG => (
            "uri-too-long",
            "The path is too long",
            "A path with its query may have at most 65,534 bytes.",
        ),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => (
            "head-too-large",
            "The headers are too large",
            "A request may have at most 100 headers, and 408 KiB of headers and request line. Send \
             fewer or shorter headers, such as cookies.",
        ),
        _ => return None,
    };
    Some(Problem::new(status, kind, title, detail))
}
