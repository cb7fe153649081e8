//! What a resource can do, and for whom: `OPTIONS`, and answers to pages of other origins (Fetch,
//! §3.3, "CORS protocol").
//!
//! Invariant: only an origin that the settings name is told anything, and an answer for it names
//! it, so that no cache gives it to another.

use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::Full;

use super::Whole;
use super::access::Foreign;

/// The methods that any resource has.
const METHODS: &str = "GET, HEAD, POST, OPTIONS";
/// What a page may send.
const HEADERS: &str = "authorization, content-encoding, content-type, x-request-id";
/// What a page may see beyond the usual.
const SHOWN: &str = "retry-after, x-request-id";
/// How long a browser may remember that, in seconds.
const AGE_MAX_S: &str = "600";

/// The answer to a browser that asks whether a page may send a request, and to who asks for the
/// methods of the whole service.
pub(super) fn preflight(parts: &Parts, foreign: &Foreign) -> Option<Whole> {
    if parts.method != Method::OPTIONS {
        return None;
    }
    let asked = parts
        .headers
        .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = nothing();
    match foreign {
        Some(_) if asked => {
            put(&mut response, header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            put(&mut response, header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
            put(&mut response, header::ACCESS_CONTROL_MAX_AGE, AGE_MAX_S);
        }
        _ if parts.uri.path() == "*" => put(&mut response, header::ALLOW, METHODS),
        _ => return None,
    }
    share(&mut response, foreign.clone());
    Some(response)
}

/// What a router says of a resource whose handlers know no `OPTIONS` (RFC 9110 §9.3.7).
pub(super) fn allowed<A: Default>(response: Response<A>) -> Response<A> {
    let (mut parts, body) = response.into_parts();
    if parts.status != StatusCode::METHOD_NOT_ALLOWED {
        return Response::from_parts(parts, body);
    }
    let allow = parts.headers.get(header::ALLOW);
    let allow = allow
        .and_then(|allow| allow.to_str().ok())
        .unwrap_or_default();
    let allow = HeaderValue::from_str(&format!("{},OPTIONS", allow));
    parts.headers.clear();
    if let Ok(allow) = allow {
        parts.headers.insert(header::ALLOW, allow);
    }
    parts.status = StatusCode::NO_CONTENT;
    Response::from_parts(parts, A::default())
}

/// Lets a page of another origin have the answer.
pub(super) fn share<A>(response: &mut Response<A>, foreign: Foreign) {
    let Some(origin) = foreign else { return };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    put(response, header::ACCESS_CONTROL_EXPOSE_HEADERS, SHOWN);
}

fn nothing() -> Whole {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn put<A>(response: &mut Response<A>, name: HeaderName, value: &'static str) {
    let value = HeaderValue::from_static(value);
    response.headers_mut().insert(name, value);
}
