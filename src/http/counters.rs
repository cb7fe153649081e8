//! `GET /counters`: the counters behind this coordinator, as it sees them.
//!
//! Invariant: a counter that does not answer is listed all the same, with the reason.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::{App, json};
use crate::clock::now_ms;
use crate::coordinator::CounterView;

/// The counters behind a coordinator.
#[derive(Debug, Serialize, ToSchema)]
pub struct CountersAnswer {
    /// Every counter that this coordinator was told of.
    counters: Vec<CounterAnswer>,
}

/// How a counter is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CounterState {
    /// It answers and has everything that it should have.
    Complete,
    /// It answers but is not sure to have everything.
    Incomplete,
    /// It does not answer.
    Unreachable,
}

/// One counter.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "name": "local",
    "state": "complete",
    "tenants": 1,
    "items": 3,
    "position": {"epochs": 2, "epoch": "0f2f5b0d2c608f2da89777b90c7c6b59", "sequence": 4, "holes": 0},
    "lag_ms": 2,
    "last_seen_ms": 1_790_000_000_000_u64,
    "disk_bytes": 4_194_304,
    "memory_bytes": 65_536,
}))]
pub struct CounterAnswer {
    /// Its name.
    name: String,
    /// How it is.
    state: CounterState,
    /// Why it is unreachable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    reason: Option<String>,
    /// Tenants that have items.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    tenants: Option<u64>,
    /// Items that it counts, over all tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    items: Option<u64>,
    /// Which batches it has applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    position: Option<PositionAnswer>,
    /// How old the batch that it applied last was by then, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    lag_ms: Option<u64>,
    /// When it answered last, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    last_seen_ms: Option<u64>,
    /// Bytes of its files.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    disk_bytes: Option<u64>,
    /// Bytes of its tables, filters and indexes in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    memory_bytes: Option<u64>,
}

/// A counter's position, in short.
#[derive(Debug, Serialize, ToSchema)]
pub struct PositionAnswer {
    /// Coordinators' lives that it has applied batches of.
    epochs: u64,
    /// The life whose batch it applied last, since it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    epoch: Option<String>,
    /// The greatest sequence that it applied of that life.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    sequence: Option<u64>,
    /// Ranges of sequences that it knows to be missing.
    holes: u64,
}

/// Lists the counters behind this coordinator.
#[utoipa::path(
    get,
    path = "/counters",
    tag = "operation",
    responses((status = 200, description = "The counters.", body = CountersAnswer)),
)]
pub async fn get_counters(State(app): State<Arc<App>>) -> Response {
    let counters = app.coordinator.counters().await;
    json(&CountersAnswer {
        counters: counters.into_iter().map(CounterAnswer::from).collect(),
    })
}

impl From<CounterView> for CounterAnswer {
    fn from(view: CounterView) -> Self {
        let mut answer = Self {
            name: view.name,
            state: CounterState::Unreachable,
            reason: None,
            tenants: None,
            items: None,
            position: None,
            lag_ms: None,
            last_seen_ms: None,
            disk_bytes: None,
            memory_bytes: None,
        };
        match view.status {
            Err(error) => answer.reason = Some(error.to_string()),
            Ok(status) => {
                answer.state = match status.complete {
                    true => CounterState::Complete,
                    false => CounterState::Incomplete,
                };
                let (epoch, sequence) = status.last_applied.unzip();
                answer.tenants = Some(status.tenants);
                answer.items = Some(status.items);
                answer.position = Some(PositionAnswer {
                    epochs: status.epochs,
                    epoch,
                    sequence,
                    holes: status.holes,
                });
                answer.lag_ms = Some(status.lag_ms);
                answer.last_seen_ms = Some(now_ms());
                answer.disk_bytes = Some(status.disk_bytes);
                answer.memory_bytes = Some(status.memory_bytes);
            }
        }
        answer
    }
}
