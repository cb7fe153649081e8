//! `GET /counters`: the counters behind this coordinator, as it sees them.
//!
//! Invariant: a counter that does not answer is listed all the same, with the reason.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{App, Whole, json};
use headcount_coordinator::CounterView;
use headcount_runtime::clock::now_ms;

/// The counters behind a coordinator.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CountersAnswer {
    /// Every counter that this coordinator was told of.
    counters: Vec<CounterAnswer>,
}

/// How a counter is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CounterState {
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
    "last_seen_ms_ago": null,
    "lag_batches": null,
    "queue_messages": null,
    "url": null,
    "redeliveries": 0,
    "snapshots": 0,
    "forks": 0,
    "disk_bytes": 4_194_304,
    "memory_bytes": 65_536,
}))]
pub(crate) struct CounterAnswer {
    /// Its name.
    name: String,
    /// How it is.
    state: CounterState,
    /// Why it is unreachable, or may not have everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    reason: Option<String>,
    /// Why it takes nothing, and what its operator does about that; absent while it does take what
    /// comes. It answers with what it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    problem: Option<String>,
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
    /// When it answered or announced itself last, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    last_seen_ms: Option<u64>,
    /// How long ago it announced itself, in milliseconds; null for a counter in the same process.
    #[schema(required = true)]
    last_seen_ms_ago: Option<u64>,
    /// Batches appended that it has not applied; null where that is not known.
    #[schema(required = true)]
    lag_batches: Option<u64>,
    /// Messages in its queue; null without a queue, or where that is not known.
    #[schema(required = true)]
    queue_messages: Option<u64>,
    /// Where other nodes ask it; null for a counter in the same process.
    #[schema(required = true)]
    url: Option<String>,
    /// What is wrong with where the broker keeps its queue, and what to run; absent while nothing
    /// is known to be. Known only with the coordinator's setting `management-url`, as are the next
    /// three.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    warning: Option<String>,
    /// Nodes of the broker on which its queue has members.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    queue_members: Option<Vec<String>>,
    /// Those of them that answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    queue_members_online: Option<Vec<String>>,
    /// How many nodes the broker has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    broker_nodes: Option<u64>,
    /// Batches that came a second time, since it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    redeliveries: Option<u64>,
    /// Other counters' snapshots that it has united with its store, since it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    snapshots: Option<u64>,
    /// Batches whose sequence had come before with other content, since it started: two
    /// coordinators share a life, as after the cloning of a running machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    forks: Option<u64>,
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
pub(crate) struct PositionAnswer {
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
pub(crate) async fn get_counters(State(app): State<Arc<App>>) -> Whole {
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
            problem: None,
            tenants: None,
            items: None,
            position: None,
            lag_ms: None,
            last_seen_ms: view
                .last_seen_ms_ago
                .map(|ago_ms| now_ms().saturating_sub(ago_ms)),
            last_seen_ms_ago: view.last_seen_ms_ago,
            lag_batches: view.lag_batches,
            queue_messages: view.queue_messages,
            url: view.url,
            warning: None,
            queue_members: None,
            queue_members_online: None,
            broker_nodes: None,
            redeliveries: None,
            snapshots: None,
            forks: None,
            disk_bytes: None,
            memory_bytes: None,
        };
        if let Some(replicas) = view.replicas {
            answer.warning = replicas.warning(&answer.name);
            answer.broker_nodes = Some(replicas.nodes.len() as u64);
            answer.queue_members = Some(replicas.members.into_iter().collect());
            answer.queue_members_online = Some(replicas.online.into_iter().collect());
        }
        match view.status {
            Err(error) => answer.reason = Some(error.to_string()),
            Ok(status) => {
                answer.state = match status.complete {
                    true => CounterState::Complete,
                    false => CounterState::Incomplete,
                };
                let (epoch, sequence) = status.last_applied.unzip();
                answer.reason = status.doubt;
                answer.problem = status.problem;
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
                answer.redeliveries = Some(status.redeliveries);
                answer.snapshots = Some(status.snapshots);
                answer.forks = Some(status.forks);
                answer.disk_bytes = Some(status.disk_bytes);
                answer.memory_bytes = Some(status.memory_bytes);
            }
        }
        answer
    }
}
