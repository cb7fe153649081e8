//! The HTTP layer: the public API of a coordinator and the internal API of a counter.
//!
//! Invariant: only this crate knows about HTTP servers and status codes, and it contains no
//! counting logic.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests start the tasks that they test"
    )
)]

mod access;
mod auth;
mod body;
mod caller;
mod connection;
mod counters;
mod counts;
mod docs;
mod error;
mod fast_path;
mod fault;
mod gauges;
mod heads;
mod health;
mod internal;
mod items;
mod loss;
mod measure;
mod media;
mod methods;
mod options;
pub mod parse;
mod refusals;
mod server;
mod timer;
mod unpack;
mod unparsed;
mod unread;

pub use access::AccessLimits;
pub use body::BodyLimits;
pub use fast_path::Routes;
pub use internal::{CounterApp, counter_routes};
pub use loss::{LossDesk, LossError};
pub use server::{Endpoint, PROBE_CONNECTIONS, ServerLimits, serve};

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::Full;
use serde::Serialize;
use utoipa::{IntoParams, IntoResponses};

use self::auth::Guard;
use self::body::Bodies;
use self::error::{Problem, to_json};
use self::loss::Desk;
use self::measure::{Measures, measure};
use self::unpack::Unpackers;
use headcount_coordinator::Coordinator;
use headcount_model::ClusterSecret;

/// The media type of JSON.
const JSON: &str = "application/json";

/// The paths of the public API.
pub const API_ROUTES: [&str; 9] = [
    items::ITEMS_ROUTE,
    "/items/{tenant}/ids/{id}",
    counts::COUNT_ROUTE,
    "/counts",
    "/tenants",
    "/counters",
    "/healthz",
    "/readyz",
    "/metrics",
];

/// Limits on requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Maximum number of items in one request.
    pub items_max: usize,
    /// Size and time limits of bodies.
    pub bodies: BodyLimits,
}

/// The state that the handlers of a coordinator share.
pub struct App {
    coordinator: Coordinator,
    limits: HttpLimits,
    bodies: Bodies,
    unpackers: Unpackers,
    loss: Option<Desk>,
    /// What the broker refuses at the moment.
    refusal: Refusal,
    render_metrics: Box<dyn Fn() -> String + Send + Sync>,
    openapi: Bytes,
}

/// Returns what the broker refuses at the moment, if anything.
type Refusal = Box<dyn Fn() -> Option<String> + Send + Sync>;

impl App {
    /// Creates the state of the handlers for a coordinator.
    #[must_use]
    pub fn new(
        coordinator: Coordinator,
        limits: HttpLimits,
        render_metrics: Box<dyn Fn() -> String + Send + Sync>,
    ) -> Self {
        Self {
            coordinator,
            limits,
            bodies: Bodies::new(limits.bodies),
            unpackers: Unpackers::new(),
            refusal: Box::new(|| None),
            loss: None,
            render_metrics,
            openapi: docs::openapi_json(),
        }
    }

    /// Sets the function that returns what the broker refuses; `/readyz` reports it.
    #[must_use]
    pub fn with_refusal(
        self,
        refusal: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            refusal: Box::new(refusal),
            ..self
        }
    }

    /// Adds the endpoint with which operators accept losses. Its requests must present `secret`;
    /// without a secret, all requests are allowed.
    #[must_use]
    pub fn with_loss_desk(self, desk: Arc<dyn LossDesk>, secret: Option<ClusterSecret>) -> Self {
        let guard = Guard::new(secret);
        Self {
            loss: Some(Desk { desk, guard }),
            ..self
        }
    }
}

/// The problems with which any read can be answered.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "used only for the OpenAPI description")]
enum ReadProblems {
    /// A parameter is invalid.
    #[response(status = 400, content_type = "application/problem+json")]
    Invalid(Problem),
    /// No counter can answer in time, or too many reads are waiting. Retry.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}

/// The options of a read.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "used only for the OpenAPI description; `options` parses the parameters"
)]
struct ReadParams {
    /// The `token` of a response to `POST /items`. An exact answer includes the items of that
    /// request.
    #[param(nullable = false, min_length = 28, pattern = "^[A-Za-z0-9_-]+$")]
    after: Option<String>,
    /// What an answer must include to be exact. `session` (default): every item that this
    /// coordinator acknowledged before, and nothing less than its earlier answers. `strong`: every
    /// item that any coordinator acknowledged before. `eventual`: no requirement; the answer is
    /// what is known immediately, and is never exact.
    #[param(inline, nullable = false)]
    consistency: Option<ConsistencyParam>,
    /// Maximum time to wait for an exact answer, in milliseconds; 5,000 by default. After that, the
    /// answer is what is known, with `exact` false; a `strong` read fails with 503.
    #[param(minimum = 0, maximum = 30_000, nullable = false)]
    timeout_ms: Option<u64>,
}

#[derive(utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(
    dead_code,
    reason = "used only for the OpenAPI description; `options` parses the parameter"
)]
enum ConsistencyParam {
    Session,
    Strong,
    Eventual,
}

/// The routes of a node that runs a coordinator.
#[must_use]
pub fn routes(app: App) -> Routes {
    let (app, measures) = (Arc::new(app), Arc::default());
    let router = router(Arc::clone(&app), &measures);
    Routes::of_coordinator(app, measures, router)
}

fn router(app: Arc<App>, measures: &Arc<Measures>) -> Router {
    let router = Router::new()
        .merge(loss::routes(app.loss.as_ref()))
        .route(items::ITEMS_ROUTE, post(items::post_items))
        .route("/items/{tenant}/ids/{id}", get(items::get_item))
        .route(counts::COUNT_ROUTE, get(counts::get_count))
        .route("/counts", get(counts::get_counts))
        .route("/tenants", get(counts::get_tenants))
        .route("/counters", get(counters::get_counters))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::get_metrics))
        .route("/openapi.json", get(docs::get_openapi))
        .route("/docs", get(docs::redirect_to_docs))
        .route("/docs/", get(docs::get_docs_index))
        .route("/docs/{*path}", get(docs::get_docs_file));
    framed(router, measures).with_state(app)
}

/// Adds what every node has: answers to unknown paths and methods, the check of paths, and the
/// metrics of requests.
fn framed<S: Clone + Send + Sync + 'static>(
    router: Router<S>,
    measures: &Arc<Measures>,
) -> Router<S> {
    router
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .fallback(async || Problem::not_found())
        .layer(axum::middleware::from_fn(options::check_path))
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(measures),
            measure,
        ))
}

/// A response with a body of one buffer.
type Whole = Response<Full<Bytes>>;

/// Creates a JSON response that reuses the memory of `headers`, which it clears. If `headers` is
/// the map of the request, this avoids a new map, which is the largest allocation of a small
/// request.
fn json_in(headers: HeaderMap, value: &impl Serialize) -> Whole {
    whole(headers, to_json(value))
}

/// Creates a response from serialized JSON, like [`json_in`].
fn whole(mut headers: HeaderMap, written: Bytes) -> Whole {
    headers.clear();
    let json = HeaderValue::from_static(JSON);
    headers.insert(header::CONTENT_TYPE, json);
    let mut response = Response::new(written.into());
    *response.headers_mut() = headers;
    response
}

fn json(value: &impl Serialize) -> Whole {
    json_in(HeaderMap::new(), value)
}
