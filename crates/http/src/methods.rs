//! Answers `OPTIONS`, and adds the headers of the CORS protocol (Fetch, §3.3) to responses for
//! pages of other origins.
//!
//! Invariant: only an origin that the settings name gets these headers. Its responses name the
//! origin, so that a cache does not serve them to another one.

use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::Full;

use super::Whole;
use super::access::Foreign;

/// All methods of the service.
const METHODS: &str = "GET, HEAD, POST, OPTIONS";
/// The headers that a page may send.
const HEADERS: &str = "authorization, content-encoding, content-type, x-request-id";
/// The response headers that a page may read, in addition to the default ones.
const SHOWN: &str = "retry-after, x-request-id";
/// How long a browser may cache a preflight response, in seconds.
const AGE_MAX_S: &str = "600";

/// Answers a preflight request of a browser, or a request for the methods of the whole service
/// (`OPTIONS *`). Returns `None` for all other requests.
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

/// Converts the router's 405 for `OPTIONS`, which no handler supports, into the response with the
/// allowed methods (RFC 9110 §9.3.7).
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

/// Allows a page of the foreign origin, if there is one, to read the response.
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
