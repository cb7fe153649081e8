//! Errors as clients see them: `application/problem+json` (RFC 9457).
//!
//! Invariant: the `type` of a problem never changes, and its `detail` says what to do. After a 503,
//! a client may resend the same request; no item counts twice.

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

/// The prefix of the `type` of every problem.
const TYPE_PREFIX: &str = "urn:headcount:problem:";

/// The supported content encodings.
const ENCODINGS: &str = "gzip, zstd";

/// Seconds after which a client should retry.
const RETRY_AFTER_SECONDS: &str = "1";

/// An error, as defined by RFC 9457.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The kind of problem. Stable across releases.
    #[serde(rename = "type")]
    #[schema(example = "urn:headcount:problem:invalid-parameter")]
    kind: String,
    /// A short summary of the kind of problem.
    title: String,
    /// The HTTP status code.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What happened, and what to do.
    detail: String,
    /// The errors of the first 100 invalid items of the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<Fault>,
    /// Only with 5xx: the id of the request in the log. It is the value of its header
    /// `X-Request-Id`, or generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, value_type = String)]
    request_id: Option<Box<str>>,
    /// Whether the response lists the supported content encodings.
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

    /// Returns the type without the common prefix, and the detail.
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
        // Only if the encoding caused the error (RFC 9110 §15.5.16).
        problem.is_of_encoding = true;
        problem
    }

    pub(crate) fn body_too_large(bytes_max: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "The body is too large",
            format!(
                "A body may have at most {bytes_max} bytes, also after decompression. Split the \
                 items into several requests."
            ),
        )
    }

    pub(crate) fn request_timeout(seconds: f64) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "request-timeout",
            "The body came too slowly",
            format!(
                "The whole body must arrive within {seconds} seconds. Send it faster, or split the \
                 items into several requests."
            ),
        )
    }

    pub(crate) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "There is nothing here",
            "No resource has this path. GET /docs lists the resources of the public API.",
        )
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "The method is not allowed here",
            "The header Allow lists the methods of this resource.",
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
            "Too many bodies are being received. No items were accepted. Resend the request.",
        )
    }

    pub(crate) fn snapshots_in_flight(snapshots_max: usize) -> Self {
        Self::unavailable(
            "overloaded",
            "Too much is waiting",
            format!("The limit of {snapshots_max} concurrent snapshots is reached. Retry later."),
        )
    }

    pub(crate) fn queries_waiting(detail: impl Into<String>) -> Self {
        let mut problem = Self::unavailable("", "Too much is waiting", detail);
        problem.kind = BUSY_PROBLEM.to_owned();
        problem
    }

    /// The problem of a request whose client is gone; visible only in metrics.
    pub(crate) fn client_gone() -> Self {
        /// The status that other servers use for this. HTTP defines none for a response that no
        /// client reads.
        const CLIENT_CLOSED_REQUEST: u16 = 499;
        let status = StatusCode::from_u16(CLIENT_CLOSED_REQUEST);
        Self::new(
            status.unwrap_or(StatusCode::REQUEST_TIMEOUT),
            "client-gone",
            "The client has gone",
            "The client closed the connection before the response was ready.",
        )
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "The cluster's secret is missing or wrong",
            "Send the header Authorization: Bearer SECRET. Every node reads the secret from its \
             cluster-secret-file.",
        )
    }

    pub(crate) fn misdirected(detail: &str) -> Self {
        Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            "misdirected",
            "The request is meant for another counter",
            format!("{detail} The address that the request used is outdated."),
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
                    format!("{detail}. No items were accepted. Fix the body and resend it."),
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
                    "No items were accepted. Fix the items listed in `errors` and resend the \
                     request.",
                );
                problem.errors = errors.into_iter().map(Fault::from).collect();
                problem
            }
            ParseError::NoRoom => Self::bodies_in_flight(),
            ParseError::TooMany(items_max) => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-many-items",
                "There are too many items",
                format!("A request may have at most {items_max} items. Send several requests."),
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
                "Too many items are waiting. No items were accepted. Resend the request.",
            ),
            AcceptError::Closed => Self::unavailable(
                "going-down",
                "This node is going down",
                "No items were accepted. Resend the request to a running node.",
            ),
            AcceptError::LogBlocked => Self::unavailable(
                "log-blocked",
                "The broker takes nothing now",
                format!(
                    "No items were accepted: {error}. Resend the request; posts are accepted again \
                     once the broker has room."
                ),
            ),
            AcceptError::CountersLag(_) => Self::unavailable(
                "counters-lag",
                "A counter is too far behind",
                format!(
                    "No items were accepted: {error}. Resend the request later; see GET /counters."
                ),
            ),
            AcceptError::DiskFull => Self::unavailable(
                "disk-full",
                "The disk is full",
                format!(
                    "No items were accepted: {error}. Resend the request; posts are accepted again \
                     once there is room. Reads continue."
                ),
            ),
            AcceptError::TooLarge(_) => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "batch-too-large",
                "The broker takes no message so large",
                format!(
                    "Some items may not have been accepted: {error}. Increase max_message_size of \
                     the broker, then resend the same items."
                ),
            ),
            AcceptError::TimedOut | AcceptError::LogEnded => Self::unavailable(
                "outcome-unknown",
                "The outcome is unknown",
                format!("The items may count or not: {error}. Resend them; no item counts twice."),
            ),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let title = "No counter can answer";
        let detail = format!("The read failed: {error}. Retry it, or see GET /counters.");
        match error {
            ReadError::NoCounter => Self::unavailable("no-counter", title, detail),
            ReadError::NoMajority => Self::unavailable("no-majority", title, detail),
            ReadError::TooManyStrong | ReadError::TooManyWaiting => Self::unavailable(
                "overloaded",
                "Too much is waiting",
                format!("The read was rejected: {error}. Retry it, or use a weaker consistency."),
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
            // The connection does not wait for the rest of a slow body.
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
            // `Refusals` adds the id of the request to it.
            response.extensions_mut().insert(self);
        }
        response
    }
}

/// Serializes a response. Serialization of the API's types never fails, so the empty fallback is
/// never sent.
pub(crate) fn to_json(value: &impl Serialize) -> Bytes {
    /// Size of the buffer on the stack that a response is written to first. Most responses fit, and
    /// then need a single allocation of their exact length. Writing to a slice does not check
    /// whether it must grow.
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
