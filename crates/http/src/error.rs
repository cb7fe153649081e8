//! Errors as clients see them: `application/problem+json` (RFC 9457).
//!
//! Invariant: the `type` of a problem never changes, and its `detail` says what to do. A 503 means
//! that the request may be repeated as it is; nothing ever counts twice.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use super::fault::Fault;
use super::parse::ParseError;
use headcount_coordinator::{AcceptError, ReadError};
use headcount_rpc::messages::{BUSY_PROBLEM, STORE_PROBLEM};
use headcount_telemetry as telemetry;

/// The media type of problems.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// What every problem's `type` starts with.
const TYPE_PREFIX: &str = "urn:headcount:problem:";

/// The content encodings that bodies may have.
const ENCODINGS: &str = "gzip, zstd";

/// Seconds after which a client should try again.
const RETRY_AFTER_SECONDS: &str = "1";

/// A problem, by RFC 9457.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Which problem it is; stable over releases.
    #[serde(rename = "type")]
    #[schema(example = "urn:headcount:problem:invalid-parameter")]
    kind: String,
    /// The problem in a few words.
    title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong here, and what to do.
    detail: String,
    /// The faults of a bad batch: those of its first 100 invalid items.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<Fault>,
    /// With 5xx, the request's id in the log: what its header `X-Request-Id` says, or one made for
    /// it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, value_type = String)]
    request_id: Option<Box<str>>,
    /// Whether the answer names the encodings that would do.
    #[serde(skip)]
    is_of_encoding: bool,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        kind: &str,
        title: &str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind: format!("{TYPE_PREFIX}{kind}"),
            title: title.into(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            request_id: None,
            is_of_encoding: false,
        }
    }

    #[cfg(test)]
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    pub(crate) fn set_request_id(&mut self, id: &str) {
        self.request_id = Some(id.into());
    }

    /// Its type without what all begin with, and its detail.
    pub(crate) fn told(&self) -> (String, String) {
        let kind = self.kind.strip_prefix(TYPE_PREFIX).unwrap_or(&self.kind);
        (kind.to_owned(), self.detail.clone())
    }

    pub(crate) fn invalid_parameter(detail: impl Into<String>) -> Self {
        let title = "A parameter is not valid";
        Self::new(StatusCode::BAD_REQUEST, "invalid-parameter", title, detail)
    }

    pub(crate) fn unreadable_body(detail: impl Into<String>) -> Self {
        let title = "The body could not be read";
        Self::new(StatusCode::BAD_REQUEST, "unreadable-body", title, detail)
    }

    pub(crate) fn unsupported_media_type(detail: impl Into<String>) -> Self {
        let title = "The body's type is not supported";
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            title,
            detail,
        )
    }

    pub(crate) fn unsupported_encoding(detail: impl Into<String>) -> Self {
        let mut problem = Self::unsupported_media_type(detail);
        // Only where the encoding is what is wrong (RFC 9110, section 15.5.16).
        problem.is_of_encoding = true;
        problem
    }

    pub(crate) fn body_too_large(bytes_max: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "The body is too large",
            format!(
                "A body may have at most {bytes_max} bytes, also once it is unpacked. Post the items in several requests."
            ),
        )
    }

    pub(crate) fn request_timeout(seconds: f64) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "request-timeout",
            "The body came too slowly",
            format!(
                "The whole body must arrive within {seconds} seconds. Send it faster or in parts."
            ),
        )
    }

    pub(crate) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "There is nothing here",
            "No resource has this path. GET /docs shows those that exist.",
        )
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "The method is not allowed here",
            "The header Allow names the methods that this resource has.",
        )
    }

    pub(crate) fn not_ready(detail: impl Into<String>) -> Self {
        Self::unavailable("not-ready", "This node is not ready", detail)
    }

    pub(crate) fn bodies_in_flight() -> Self {
        metrics::counter!(telemetry::POSTS_REFUSED, "reason" => "bodies").increment(1);
        Self::unavailable(
            "overloaded",
            "Too much is waiting",
            "Too many bodies are being received at once. None of these items was taken; post them again.",
        )
    }

    pub(crate) fn snapshots_in_flight(snapshots_max: usize) -> Self {
        Self::unavailable(
            "overloaded",
            "Too much is waiting",
            format!("{snapshots_max} snapshots are being sent already. Ask again later."),
        )
    }

    pub(crate) fn queries_waiting(detail: impl Into<String>) -> Self {
        let mut problem = Self::unavailable("", "Too much is waiting", detail);
        problem.kind = BUSY_PROBLEM.to_owned();
        problem
    }

    /// Of a request whose client has gone: it shows in metrics only.
    pub(crate) fn client_gone() -> Self {
        /// As other servers count it; HTTP has none for an answer that nobody gets.
        const CLIENT_CLOSED_REQUEST: u16 = 499;
        let status = StatusCode::from_u16(CLIENT_CLOSED_REQUEST);
        Self::new(
            status.unwrap_or(StatusCode::REQUEST_TIMEOUT),
            "client-gone",
            "The client has gone",
            "The connection was closed before the answer was there.",
        )
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "The cluster's secret is missing or wrong",
            "Show it in the header Authorization: Bearer SECRET. Every node has it from its cluster-secret-file.",
        )
    }

    pub(crate) fn misdirected(detail: &str) -> Self {
        Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            "misdirected",
            "The request is meant for another counter",
            format!("{detail} The address that was used is an old one."),
        )
    }

    pub(crate) fn counter_stopped(detail: impl Into<String>) -> Self {
        Self::unavailable("counter-stopped", "The counter does not run", detail)
    }

    pub(crate) fn store_unreadable(detail: impl Into<String>) -> Self {
        let mut problem = Self::unavailable("", "The counter's store can't be read", detail);
        problem.kind = STORE_PROBLEM.to_owned();
        problem
    }

    pub(crate) fn loss_refused(detail: impl Into<String>) -> Self {
        let title = "The loss can't be accepted";
        Self::new(StatusCode::CONFLICT, "loss-refused", title, detail)
    }

    pub(crate) fn loss_unknown(detail: impl Into<String>) -> Self {
        Self::unavailable("outcome-unknown", "The outcome is unknown", detail)
    }

    pub(super) fn unavailable(kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, title, detail)
    }
}

impl From<ParseError> for Problem {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::Malformed { detail, line } => {
                let mut problem = Self::new(
                    StatusCode::BAD_REQUEST,
                    "malformed-body",
                    "The body is not valid JSON",
                    format!(
                        "{detail}. None of the items counts; correct the body and post it again."
                    ),
                );
                problem
                    .errors
                    .extend(line.map(|index| Fault::of_line(index, detail)));
                problem
            }
            ParseError::Invalid(errors) => {
                let mut problem = Self::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "invalid-items",
                    "Some items are not valid",
                    "None of the items counts. Correct those that errors names and post all again.",
                );
                problem.errors = errors.into_iter().map(Fault::from).collect();
                problem
            }
            ParseError::NoRoom => Self::bodies_in_flight(),
            ParseError::TooMany(items_max) => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-many-items",
                "There are too many items",
                format!(
                    "A request may have at most {items_max} items. Post them in several requests."
                ),
            ),
        }
    }
}

impl From<AcceptError> for Problem {
    fn from(error: AcceptError) -> Self {
        match error {
            AcceptError::Overloaded => Self::unavailable(
                "overloaded",
                "Too much is waiting",
                "Too many items wait to become durable. None of these was taken; post them again.",
            ),
            AcceptError::Closed => Self::unavailable(
                "going-down",
                "This node is going down",
                "None of these items was taken; post them again to a running node.",
            ),
            AcceptError::LogBlocked => Self::unavailable(
                "log-blocked",
                "The broker takes nothing now",
                format!(
                    "{error}. None of these items was taken; post them again once it has room."
                ),
            ),
            AcceptError::CountersLag(_) => Self::unavailable(
                "counters-lag",
                "A counter is too far behind",
                format!(
                    "{error}. None of these items was taken; post them again, or see GET /counters."
                ),
            ),
            AcceptError::DiskFull => Self::unavailable(
                "disk-full",
                "The disk is full",
                format!(
                    "{error}. None of these items was taken; post them again: they are taken once there is room, and reads go \
                     on meanwhile."
                ),
            ),
            AcceptError::TooLarge(_) => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "batch-too-large",
                "The broker takes no message so large",
                format!(
                    "{error}. Not all of it may have been taken; set its max_message_size higher, and send the same again."
                ),
            ),
            AcceptError::TimedOut | AcceptError::LogEnded => Self::unavailable(
                "outcome-unknown",
                "The outcome is unknown",
                format!(
                    "{error}. They may count or not; post the same ids again, none counts twice."
                ),
            ),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let title = "No counter can answer";
        let detail = format!("{error}. Ask again, or see GET /counters for which counters are up.");
        match error {
            ReadError::NoCounter => Self::unavailable("no-counter", title, detail),
            ReadError::NoMajority => Self::unavailable("no-majority", title, detail),
            ReadError::TooManyStrong | ReadError::TooManyWaiting => Self::unavailable(
                "overloaded",
                "Too much is waiting",
                format!("{error}. Ask again, or with a weaker consistency."),
            ),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON))];
        let mut response = (status, headers, to_json(&self)).into_response();
        let extra: Option<(HeaderName, &'static str)> = match status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, RETRY_AFTER_SECONDS)),
            // What is left of a body that came too slowly is not worth waiting for.
            StatusCode::REQUEST_TIMEOUT => Some((header::CONNECTION, "close")),
            _ if self.is_of_encoding => Some((header::ACCEPT_ENCODING, ENCODINGS)),
            _ => None,
        };
        if let Some((name, value)) = extra {
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        if status.is_server_error() {
            // For whoever adds the request's id.
            response.extensions_mut().insert(self);
        }
        response
    }
}

/// An answer's JSON. The API's types hold nothing that JSON can't, so the empty text never shows.
pub(crate) fn to_json(value: &impl Serialize) -> Bytes {
    /// Most answers are shorter: written here first, they take one piece of memory, of their own
    /// length. A slice is written to with no look at whether it must grow.
    const SHORT_BYTES: usize = 256;
    let mut text = [0; SHORT_BYTES];
    let mut room = text.as_mut_slice();
    match serde_json::to_writer(&mut room, value) {
        Ok(()) => {
            let written = SHORT_BYTES - room.len();
            Bytes::copy_from_slice(&text[..written])
        }
        Err(_) => serde_json::to_vec(value).map_or_else(|_| Bytes::new(), Bytes::from),
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
