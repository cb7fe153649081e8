//! The headers that every request is looked at for, found in one pass over all of them.
//!
//! Invariant: nothing is decided here. A look-up by name costs a hash and a probe, which five times
//! are more than a pass over the few that requests have.

use axum::http::{HeaderMap, HeaderValue, header};

use super::refusals::REQUEST_ID;

/// What is found.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Heads<'h> {
    pub host: Option<&'h HeaderValue>,
    pub has_more_hosts: bool,
    pub origin: Option<&'h HeaderValue>,
    pub request_id: Option<&'h HeaderValue>,
    /// Whether the client waits to be told to go on before it sends a body (RFC 9110 §10.1.1). Once
    /// it has an answer, it sends none.
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
