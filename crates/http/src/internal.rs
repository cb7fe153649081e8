//! The HTTP API of a counter node: the RPCs of other nodes, and probes and metrics for its
//! operator.
//!
//! Invariant: every answer states its coverage. Everything here that waits or streams is bounded. A
//! request that is meant for another counter is rejected.
//!
//! [`headcount_rpc::messages`] defines the bodies.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::StreamExt;
use tokio::sync::Semaphore;

use super::auth::{self, Guard};
use super::body::{Bodies, BodyLimits};
use super::caller::Caller;
use super::error::Problem;
use super::{Refusal, Routes, Whole, framed, gauges, health};
use headcount_coordinator::CounterView;
use headcount_model::ClusterSecret;
use headcount_rpc::messages::{
    CONTAINS_PATH, COUNTER_HEADER, COUNTS_PATH, ContainsQuery, CountsAnswers, CountsGroup,
    CountsQuery, LIST_PATH, ListingQuery, Message, SNAPSHOT_PATH, STATUS_PATH, WAIT_MAX,
};
use headcount_rpc::{Peer, QueryError, ReadRequirement, Status};
use headcount_runtime::supervisor::Supervisor;

/// Maximum number of concurrent snapshots. Each keeps files of the store, and reads all of it.
const SNAPSHOTS_MAX: usize = 2;

/// The state that the handlers of a counter node share.
pub struct CounterApp {
    counter: Arc<dyn Peer>,
    guard: Guard,
    bodies: Bodies,
    snapshots: Arc<Semaphore>,
    render_metrics: Box<dyn Fn() -> String + Send + Sync>,
    supervisor: Supervisor,
    /// What the broker refuses at the moment.
    refusal: Refusal,
}

impl CounterApp {
    /// Creates the state of the handlers for a counter. Without a secret, its endpoints allow all
    /// requests.
    #[must_use]
    pub fn new(
        counter: Arc<dyn Peer>,
        limits: BodyLimits,
        secret: Option<ClusterSecret>,
        render_metrics: Box<dyn Fn() -> String + Send + Sync>,
        supervisor: Supervisor,
    ) -> Self {
        Self {
            counter,
            guard: Guard::new(secret),
            bodies: Bodies::new(limits),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
            render_metrics,
            supervisor,
            refusal: Box::new(|| None),
        }
    }

    /// Sets the function that returns what the broker refuses; `/readyz` reports it.
    #[must_use]
    pub fn with_refusal(
        mut self,
        refusal: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.refusal = Box::new(refusal);
        self
    }
}

/// The routes of a node that runs a counter.
#[must_use]
pub fn counter_routes(app: CounterApp) -> Routes {
    let guard = app.guard.clone();
    let app = Arc::new(app);
    let internal = Router::new()
        .route(COUNTS_PATH, post(post_counts))
        .route(CONTAINS_PATH, post(post_contains))
        .route(LIST_PATH, post(post_list))
        .route(STATUS_PATH, get(get_status))
        .route(SNAPSHOT_PATH, get(get_snapshot))
        .route_layer(from_fn_with_state(Arc::clone(&app), check_name))
        .route_layer(from_fn_with_state(guard, auth::check));
    let router = Router::new()
        .merge(internal)
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(get_metrics));
    Routes::new(framed(router, &Arc::default()).with_state(app))
}

/// Rejects requests that are meant for another counter.
async fn check_name(
    State(app): State<Arc<CounterApp>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let name = app.counter.name();
    match request.headers().get(COUNTER_HEADER) {
        Some(meant) if meant.as_bytes() != name.as_bytes() => Err(Problem::misdirected(&format!(
            "This is the counter {name}."
        ))),
        _ => Ok(next.run(request).await),
    }
}

async fn post_counts(
    State(app): State<Arc<CounterApp>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let group: CountsGroup = receive(&app.bodies, &headers, body).await?;
    let answers = group
        .0
        .into_iter()
        .map(|CountsQuery { tenants, demand }| app.counter.counts(tenants, bounded(demand)));
    let answers = caller
        .unless_gone(futures_util::future::join_all(answers))
        .await?;
    // Within a group, the response cannot distinguish a busy counter from an unreachable one. For a
    // single query it can, and queries that wait long are sent alone.
    if let [Err(busy @ QueryError::Busy)] = answers.as_slice() {
        return Err(busy.clone().into());
    }
    Ok(message(&CountsAnswers(answers)))
}

async fn post_contains(
    State(app): State<Arc<CounterApp>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let query: ContainsQuery = receive(&app.bodies, &headers, body).await?;
    let demand = bounded(query.demand);
    let asked = app.counter.contains(query.tenant, query.hash, demand);
    Ok(message(&caller.unless_gone(asked).await??))
}

async fn post_list(
    State(app): State<Arc<CounterApp>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let query: ListingQuery = receive(&app.bodies, &headers, body).await?;
    let list = Arc::new(query.list);
    let asked = app.counter.list(list, bounded(query.demand));
    Ok(message(&caller.unless_gone(asked).await??))
}

async fn get_status(State(app): State<Arc<CounterApp>>) -> Result<Response, Problem> {
    Ok(message(&app.counter.status().await?))
}

/// Streams the counter's last commit with all its keys, at the pace of the connection. An error
/// cuts the connection, so that a partial snapshot never looks complete.
async fn get_snapshot(State(app): State<Arc<CounterApp>>) -> Result<Response, Problem> {
    let permit = Arc::clone(&app.snapshots)
        .try_acquire_owned()
        .map_err(|_| Problem::snapshots_in_flight(SNAPSHOTS_MAX))?;
    let frames = app.counter.snapshot().await?;
    let frames = frames.map(move |frame| {
        let _held = &permit;
        frame.inspect_err(|error| tracing::warn!(%error, "sending a snapshot failed"))
    });
    let headers = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((headers, Body::from_stream(frames)).into_response())
}

/// Returns whether the counter runs, accepts deliveries, and is complete.
async fn readyz(State(app): State<Arc<CounterApp>>) -> Result<Whole, Problem> {
    if let Some(end) = app.supervisor.unasked() {
        return Err(health::ends(&end));
    }
    if app.supervisor.is_leaving() {
        return Err(health::going_down());
    }
    match app.counter.status().await {
        Ok(Status {
            name,
            problem: Some(problem),
            ..
        }) => Err(Problem::not_ready(format!(
            "The counter {name} accepts no deliveries: {problem}. It still answers reads with the \
             items that it has."
        ))),
        Ok(status) if status.complete => Ok(health::healthz().await),
        Ok(Status { name, doubt, .. }) => {
            let doubt = doubt.map(|why| format!(": {why}")).unwrap_or_default();
            let unsure = format!(
                "The counter {name} may lack items, and is catching up from its peers{doubt}"
            );
            Err(Problem::not_ready(health::with_refusal(
                &unsure,
                (app.refusal)(),
            )))
        }
        Err(error) => Err(Problem::not_ready(format!(
            "The counter does not count: {error}."
        ))),
    }
}

async fn get_metrics(State(app): State<Arc<CounterApp>>) -> Response {
    gauges::report(&CounterView {
        name: app.counter.name().to_owned(),
        status: app.counter.status().await,
        queue_messages: None,
        lag_batches: None,
        last_seen_ms_ago: None,
        url: None,
        replicas: None,
    });
    health::metrics_text((app.render_metrics)())
}

/// Limits the wait of a requirement to [`WAIT_MAX`].
fn bounded(demand: ReadRequirement) -> ReadRequirement {
    ReadRequirement {
        wait: demand.wait.min(WAIT_MAX),
        ..demand
    }
}

/// Receives and decodes a message.
pub(crate) async fn receive<M: Message>(
    bodies: &Bodies,
    headers: &HeaderMap,
    body: Body,
) -> Result<M, Problem> {
    // A web page cannot send this type without a CORS preflight.
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if !is_json {
        return Err(Problem::unsupported_media_type(
            "Send JSON, with the header Content-Type: application/json.",
        ));
    }
    let (body, _room) = bodies.receive(body).await?;
    M::decode(&body)
        .map_err(|error| Problem::unreadable_body(format!("The body cannot be decoded: {error}.")))
}

/// Creates the response with an encoded message.
pub(crate) fn message(message: &impl Message) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (headers, message.encode()).into_response()
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Busy => {
                Self::queries_waiting(format!("The query was rejected: {error}. Retry later."))
            }
            QueryError::Unreachable(_) => Self::counter_stopped(error.to_string()),
            QueryError::Store(detail) => Self::store_unreadable(detail),
        }
    }
}

#[cfg(test)]
#[path = "internal_tests.rs"]
pub(super) mod tests;
