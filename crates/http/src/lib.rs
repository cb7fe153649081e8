//! The HTTP face: what clients see of a coordinator.
//!
//! Invariant: only this folder knows about HTTP servers and status codes; it decides nothing about
//! counting.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests start what they test")
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
mod fault;
mod front;
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
pub use front::Routes;
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
use utoipa::IntoParams;

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

/// Limits of what clients may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Items in one request.
    pub items_max: usize,
    /// Sizes and times of bodies.
    pub bodies: BodyLimits,
}

/// What the handlers share.
pub struct App {
    coordinator: Coordinator,
    limits: HttpLimits,
    bodies: Bodies,
    unpackers: Unpackers,
    loss: Option<Desk>,
    /// What the broker refuses, while that lasts.
    refusal: Refusal,
    render_metrics: Box<dyn Fn() -> String + Send + Sync>,
    openapi: Bytes,
}

/// Tells what the broker refuses now, if it refuses anything.
type Refusal = Box<dyn Fn() -> Option<String> + Send + Sync>;

impl App {
    /// The handlers' state over a coordinator.
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

    /// The same where a broker is asked, of which `refusal` tells what it refuses.
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

    /// The same with a desk where operators accept losses, who show `secret`; without one, anybody
    /// may.
    #[must_use]
    pub fn with_loss_desk(self, desk: Arc<dyn LossDesk>, secret: Option<ClusterSecret>) -> Self {
        let guard = Guard::new(secret);
        Self {
            loss: Some(Desk { desk, guard }),
            ..self
        }
    }
}

/// How a client wants to read.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "it only describes parameters; options reads them without it"
)]
struct ReadParams {
    /// The `token` of an answer to `POST /items`: the answer includes those items.
    #[param(nullable = false, min_length = 28, pattern = "^[A-Za-z0-9_-]+$")]
    after: Option<String>,
    /// What an exact answer includes: `session`, everything that this coordinator acknowledged and
    /// nothing less than it has answered before; `strong`, everything that any coordinator
    /// acknowledged; `eventual`, whatever is known at once.
    #[param(inline, nullable = false)]
    consistency: Option<ConsistencyParam>,
    /// How long to wait for an answer that includes all that, in milliseconds; 5,000 if not given.
    #[param(minimum = 0, maximum = 30_000, nullable = false)]
    timeout_ms: Option<u64>,
}

#[derive(utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(
    dead_code,
    reason = "it only describes a parameter; options reads it without it"
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

/// What every node answers to requests for nothing that it has, and how it counts them all.
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

/// An answer that is there as a whole.
type Whole = Response<Full<Bytes>>;

/// An answer in JSON. It takes over `headers`, emptied: a request's map for its own answer spares a
/// new one, which would be the largest piece of memory that a small request needs.
fn json_in(headers: HeaderMap, value: &impl Serialize) -> Whole {
    whole(headers, to_json(value))
}

/// The same of JSON that is written already.
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
