//! Answers to bytes that are no request: the server library gives them by itself, with a status and
//! no body.
//!
//! Invariant: they are told from all others by their head, which does not say who answers; all that
//! this service gives does. Their status and what else is in their head stays. To a malformed HEAD
//! the body is sent as well: which method it was is not known here.

use std::io::IoSlice;

use axum::http::StatusCode;

use super::error::{PROBLEM_JSON, Problem, to_json};
use super::front::SERVER;

/// More than the library's own heads have.
const HEAD_BYTES_MAX: usize = 256;
/// What ends a head.
const END: &str = "\r\n\r\n";
/// What begins one.
const BEGIN: &[u8] = b"HTTP/1.";
/// What says that there is no body, in the library's letters.
const NO_BODY: &str = "content-length: 0\r\n";
/// What says who answers.
const WHO: &str = "\r\nserver: ";

/// What is written instead of `slices`, if they end with an answer of the library's own.
pub(super) fn answer(slices: &[IoSlice<'_>]) -> Option<Vec<u8>> {
    let last = slices.iter().rev().find(|slice| !slice.is_empty())?;
    // Nearly all others end with a body.
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
            "The first line or a header is not as HTTP/1.1 has it (RFC 9112).",
        ),
        StatusCode::URI_TOO_LONG => (
            "uri-too-long",
            "The path is too long",
            "A path with its query may have at most 65,534 bytes.",
        ),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => (
            "head-too-large",
            "The headers are too large",
            "A request may have at most 100 headers, and 408 KiB with its first line. Send fewer cookies.",
        ),
        _ => return None,
    };
    Some(Problem::new(status, kind, title, detail))
}
