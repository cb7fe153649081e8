//! Counts and times requests by route, never by path, which contains tenants and ids.
//!
//! Invariant: the number of series depends only on the routes, methods and statuses in use, not on
//! the number of requests.
//!
//! The handles of each series are looked up once: a look-up by labels costs more than parsing an
//! item.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use metrics::{Counter, Histogram};
use parking_lot::RwLock;

use headcount_telemetry as telemetry;

/// The route label of requests that match no route.
pub(super) const NO_ROUTE: &str = "none";

/// Handles by route.
type Routes = HashMap<Box<str>, Handles>;

/// The handles of all known series, by method and status, then by route.
#[derive(Default)]
pub(super) struct Measures(RwLock<HashMap<(&'static str, u16), Routes>>);

#[derive(Clone)]
struct Handles {
    requests: Counter,
    seconds: Histogram,
}

/// The series of one route and method, with cached handles for status 200.
pub(super) struct Series {
    measures: Arc<Measures>,
    route: &'static str,
    method: &'static str,
    ok: OnceLock<Handles>,
}

impl Series {
    pub(super) fn new(measures: &Arc<Measures>, route: &'static str, method: &'static str) -> Self {
        Self {
            measures: Arc::clone(measures),
            route,
            method,
            ok: OnceLock::new(),
        }
    }

    pub(super) fn route(&self) -> &'static str {
        self.route
    }

    /// Records a request and its duration.
    pub(super) fn note(&self, status: StatusCode, took: Duration) {
        let find = || self.measures.of(self.route, self.method, status.as_u16());
        match status {
            StatusCode::OK => self.ok.get_or_init(find).note(took),
            _ => find().note(took),
        }
    }
}

impl Handles {
    fn note(&self, took: Duration) {
        self.seconds.record(took);
        self.requests.increment(1);
    }
}

impl Measures {
    fn of(&self, route: &str, method: &'static str, status: u16) -> Handles {
        if let Some(known) = self
            .0
            .read()
            .get(&(method, status))
            .and_then(|routes| routes.get(route))
        {
            return known.clone();
        }
        let handles = Handles {
            requests: metrics::counter!(
                telemetry::REQUESTS,
                "route" => route.to_owned(),
                "method" => method,
                "status" => status.to_string(),
            ),
            seconds: metrics::histogram!(
                telemetry::REQUEST_SECONDS,
                "route" => route.to_owned(),
                "method" => method,
            ),
        };
        let mut series = self.0.write();
        let routes = series.entry((method, status)).or_default();
        routes.insert(route.into(), handles.clone());
        handles
    }
}

/// Counts and times a request.
pub(super) async fn measure(
    State(measures): State<Arc<Measures>>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    let route = matched.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    measures
        .of(route, method, response.status().as_u16())
        .note(started.elapsed());
    if response.status().is_server_error()
        && let Some(matched) = matched
    {
        // `Refusals` logs the route.
        response.extensions_mut().insert(matched);
    }
    response
}

/// Returns the label of a method. Clients can send any method, but the number of labels must stay
/// small.
fn method_label(method: &axum::http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "other",
    }
}
