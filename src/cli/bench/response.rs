//! Parses responses from bytes as they arrive.
//!
//! Invariant: a response is either complete or not available yet. A response that can't be parsed
//! is an error, never guessed.

use thiserror::Error;

/// Maximum number of headers; a coordinator sends about four.
const HEADERS_MAX: usize = 32;
/// Maximum size of a response in bytes. Responses to posts and counts have a few hundred.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// The reason why a response can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum ResponseError {
    #[error("the response is not HTTP/1.1: {0}")]
    NotHttp(#[from] httparse::Error),
    #[error("the response has no Content-Length (chunked responses are not supported)")]
    NoLength,
    #[error("the response exceeds {ANSWER_BYTES_MAX} bytes")]
    TooLong,
}

/// The head of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Size of the head in bytes.
    pub(super) head_bytes: usize,
    /// Size of head and body in bytes.
    pub(super) whole_bytes: usize,
    /// Delay before a retry in seconds.
    pub(super) retry_after_s: Option<u64>,
    /// Whether the server closes the connection after this response.
    pub(super) closes: bool,
}

/// Parses the head of the response at the start of `bytes`. `None` if it is incomplete.
pub(super) fn head(bytes: &[u8]) -> Result<Option<Head>, ResponseError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes)? {
        httparse::Status::Complete(head_bytes) => head_bytes,
        httparse::Status::Partial if bytes.len() > ANSWER_BYTES_MAX => {
            return Err(ResponseError::TooLong);
        }
        httparse::Status::Partial => return Ok(None),
    };
    let mut found = Head {
        status: response.code.unwrap_or(0),
        head_bytes,
        whole_bytes: 0,
        retry_after_s: None,
        closes: response.version == Some(0),
    };
    let mut body_bytes = None;
    for header in response.headers.iter() {
        let name = header.name;
        if name.eq_ignore_ascii_case("content-length") {
            body_bytes = number(header.value);
        } else if name.eq_ignore_ascii_case("retry-after") {
            found.retry_after_s = number(header.value);
        } else if name.eq_ignore_ascii_case("connection") {
            found.closes |= header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let body_bytes = body_bytes.ok_or(ResponseError::NoLength)?;
    if body_bytes > ANSWER_BYTES_MAX as u64 {
        return Err(ResponseError::TooLong);
    }
    found.whole_bytes = head_bytes + body_bytes as usize;
    Ok(Some(found))
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// Whether a body with counts says that they are exact.
pub(super) fn is_exact(body: &[u8]) -> bool {
    const EXACT: &[u8] = b"\"exact\":true";
    body.windows(EXACT.len()).rev().any(|part| part == EXACT)
}

/// The detail of an unsuccessful response, in one line.
pub(super) fn detail(body: &[u8]) -> String {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = match problem.get("detail").and_then(|detail| detail.as_str()) {
        Some(detail) => detail.to_owned(),
        None => String::from_utf8_lossy(body).into_owned(),
    };
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: \
            14\r\n\r\n{\"exact\":true}";

    #[test]
    fn an_answer_is_found_once_its_head_is_whole() {
        let body = ANSWER.len() - 14;
        for cut in 0..body {
            assert_eq!(head(&ANSWER[..cut]), Ok(None), "{cut}");
        }
        let found = head(ANSWER).expect("HTTP").expect("whole");
        assert_eq!(found.status, 200);
        assert_eq!(found.head_bytes, body);
        assert_eq!(found.whole_bytes, ANSWER.len());
        assert!(!found.closes);
        assert!(is_exact(&ANSWER[body..]));
        assert!(!is_exact(b"{\"count\":1,\"exact\":false}"));
        assert!(!is_exact(b""));
    }

    #[test]
    fn a_refusal_says_when_to_try_again() {
        let text =
            b"HTTP/1.1 503 X\r\nretry-after: 2\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n";
        let found = head(text).expect("HTTP").expect("whole");
        assert_eq!(found.status, 503);
        assert_eq!(found.retry_after_s, Some(2));
        assert!(found.closes);
    }

    #[test]
    fn what_cant_be_read_is_an_error() {
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(head(chunked), Err(ResponseError::NoLength));
        let long = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n";
        assert_eq!(head(long), Err(ResponseError::TooLong));
        assert!(matches!(
            head(b"SSH-2.0-x\r\n"),
            Err(ResponseError::NotHttp(_))
        ));
    }

    #[test]
    fn details_are_one_line() {
        assert_eq!(detail(b"{\"detail\":\"a\\n b\"}"), "a b");
        assert_eq!(detail(b"<html>\n</html>"), "<html> </html>");
        assert_eq!(detail(&[b'x'; 1000]).len(), 300);
    }
}
