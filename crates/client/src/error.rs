//! Errors of requests to a coordinator, and their details from the response.
//!
//! Invariant: every error says whether the same request can succeed later. A response that is not
//! from a coordinator is also reported as an error.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use serde::Deserialize;
use thiserror::Error;

use super::cause;

/// The retryable statuses below 500: request timeout and too many requests.
const TRY_AGAIN: [u16; 2] = [408, 429];

/// Why a request failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The URL cannot be the URL of a coordinator.
    #[error(
        "{0:?} is not the URL of a coordinator, such as http://localhost:3000 or \
         unix:/run/headcount.sock"
    )]
    Url(String),
    /// No response: the connection failed or broke, or the request timed out. Posted items may
    /// count or not.
    #[error("no response: {0}")]
    NoAnswer(String),
    /// 5xx, 429 or 408, from the coordinator or a proxy. The same request may succeed later.
    #[error("answered with {status}: {detail}")]
    Unavailable {
        /// The HTTP status.
        status: u16,
        /// The detail from the response.
        detail: String,
        /// The time to wait before a retry, if the response has one.
        retry_after: Option<Duration>,
    },
    /// 3xx. Redirects are not followed.
    #[error(
        "redirected with {status} to {location}: redirects are not followed; use the address of \
         the coordinator"
    )]
    Redirected {
        /// The HTTP status.
        status: u16,
        /// The target of the redirect.
        location: String,
    },
    /// Any other status. The same request would fail again.
    #[error("rejected with {status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The detail from the response.
        detail: String,
        /// The errors of items in the response, with the index of their line.
        faults: Vec<(usize, String)>,
    },
    /// The coordinator did not perform the operation that an operator requested.
    #[error("the coordinator did not perform the operation: {0}")]
    Coordinator(String),
    /// The response is not one of a coordinator.
    #[error("the response is not from a coordinator: {0}")]
    Unexpected(String),
}

impl ClientError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NoAnswer(_) | Self::Unavailable { .. })
    }
}

#[derive(Deserialize)]
struct Problem {
    detail: String,
    #[serde(default)]
    errors: Vec<Fault>,
    #[serde(default)]
    request_id: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Fault {
    index: usize,
    detail: String,
}

pub(super) fn no_answer(error: &reqwest::Error) -> ClientError {
    ClientError::NoAnswer(cause(error))
}

/// Creates the error for a response that is not a success.
pub(super) fn refusal(status: u16, reason: &str, headers: &HeaderMap, body: &[u8]) -> ClientError {
    if (300..400).contains(&status) {
        let location = headers.get(LOCATION).map(|value| value.as_bytes());
        return ClientError::Redirected {
            status,
            location: String::from_utf8_lossy(location.unwrap_or(b"(none)")).into_owned(),
        };
    }
    let problem: Problem = serde_json::from_slice(body).unwrap_or_else(|_| Problem {
        detail: reason.to_owned(),
        errors: Vec::new(),
        request_id: None,
    });
    let detail = match problem.request_id {
        Some(id) => format!("{} (request {id})", problem.detail),
        None => problem.detail,
    };
    if status >= 500 || TRY_AGAIN.contains(&status) {
        return ClientError::Unavailable {
            status,
            detail,
            retry_after: retry_after(headers, SystemTime::now()),
        };
    }
    ClientError::Refused {
        status,
        detail,
        faults: by_index(problem.errors),
    }
}

/// Returns the time to wait from the header `Retry-After`, which has seconds or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

pub(super) fn by_index(faults: Vec<Fault>) -> Vec<(usize, String)> {
    let faults = faults.into_iter();
    faults.map(|fault| (fault.index, fault.detail)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: reqwest::header::HeaderName, value: &str) -> HeaderMap {
        [(name, value.parse().expect("a value"))]
            .into_iter()
            .collect()
    }

    #[test]
    fn what_may_succeed_later_is_told_from_what_will_not() {
        for (status, again) in [
            (500, true),
            (502, true),
            (503, true),
            (504, true),
            (520, true),
            (429, true),
            (408, true),
            (400, false),
            (404, false),
            (413, false),
            (422, false),
            (301, false),
        ] {
            let error = refusal(status, "Why", &HeaderMap::new(), b"<html>");
            assert_eq!(error.is_retryable(), again, "{error}");
            assert!(error.to_string().contains(&status.to_string()), "{error}");
        }
    }

    #[test]
    fn a_redirect_is_named() {
        let headers = headers(LOCATION, "https://b/items");
        let error = refusal(301, "Moved Permanently", &headers, b"");
        let text = "redirected with 301 to https://b/items: redirects are not followed; use the \
             address of the coordinator";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn the_wait_is_in_seconds_or_until_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        for (value, wait) in [
            ("7", Some(7)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = headers(RETRY_AFTER, value);
            assert_eq!(
                retry_after(&headers, now),
                wait.map(Duration::from_secs),
                "{value}"
            );
        }
    }
}
