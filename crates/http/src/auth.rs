//! Authentication of requests to the internal endpoints of nodes.
//!
//! Invariant: if a secret is set, a request without it does not reach the handlers behind the
//! guard. Without a secret, all requests are allowed. Such a node listens only on loopback
//! addresses, which the composition root checks.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;

use super::error::Problem;
use headcount_model::ClusterSecret;
use headcount_telemetry as telemetry;

/// Allows requests that present the cluster's secret.
#[derive(Debug, Clone)]
pub(crate) struct Guard(Option<ClusterSecret>);

impl Guard {
    /// Creates a guard that requires `secret`; without a secret, it allows all requests.
    #[must_use]
    pub(crate) fn new(secret: Option<ClusterSecret>) -> Self {
        Self(secret)
    }

    fn lets_in(&self, headers: &HeaderMap) -> bool {
        let Some(secret) = &self.0 else { return true };
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(only), None) = (given.next(), given.next()) else {
            return false;
        };
        let Some((scheme, token)) = only.as_bytes().split_at_checked("Bearer ".len()) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"Bearer ") && secret.is(token.trim_ascii())
    }
}

/// Forwards only requests that the guard allows.
pub(crate) async fn check(
    State(guard): State<Guard>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if guard.lets_in(request.headers()) {
        return Ok(next.run(request).await);
    }
    telemetry::count(telemetry::REQUESTS_UNAUTHORIZED, 1);
    Err(Problem::unauthorized())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const SECRET: &str = "0123456789abcdef";

    fn lets_in(guard: &Guard, given: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for &value in given {
            headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        guard.lets_in(&headers)
    }

    #[test]
    fn only_the_secret_opens() {
        let guard = Guard::new(ClusterSecret::new(SECRET).ok());
        assert!(lets_in(&guard, &["Bearer 0123456789abcdef"]));
        assert!(lets_in(&guard, &["bearer  0123456789abcdef"]));
        for bad in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer "],
            &["Bearer 0123456789abcde"],
            &["Bearer 0123456789abcdeF"],
            &["Basic 0123456789abcdef"],
            &["0123456789abcdef"],
            &["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"],
        ] {
            assert!(!lets_in(&guard, bad), "{bad:?}");
        }
        assert!(lets_in(&Guard::new(None), &[]));
    }
}
