//! Finds the headers that matter for every request, in one pass over all headers.
//!
//! Invariant: this module only finds headers and makes no decisions.
//!
//! A look-up by name costs a hash and a probe. Five of them cost more than one pass over the few
//! headers that requests have.

use axum::http::{HeaderMap, HeaderValue, header};

use super::refusals::REQUEST_ID;

/// The headers that were found.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Heads<'h> {
    pub host: Option<&'h HeaderValue>,
    pub has_more_hosts: bool,
    pub origin: Option<&'h HeaderValue>,
    pub request_id: Option<&'h HeaderValue>,
    /// Whether the client waits for `100 Continue` before it sends a body (RFC 9110 §10.1.1). If it
    /// gets a final response first, it sends no body.
    pub waits_to_continue: bool,
}

impl<'h> Heads<'h> {
    pub(crate) fn of(headers: &'h HeaderMap) -> Self {
        let mut found = Self::default();
        for (name, value) in headers {
            if *name == header::HOST {
                found.has_more_hosts = found.host.is_some();
                found.host = Some(value);
            } else if *name == header::ORIGIN {
                found.origin = found.origin.or(Some(value));
            } else if *name == header::EXPECT {
                found.waits_to_continue = true;
            } else if *name == REQUEST_ID {
                found.request_id = found.request_id.or(Some(value));
            }
        }
        found
    }
}
