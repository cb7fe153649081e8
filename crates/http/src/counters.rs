//! `GET /counters`: the counters that this coordinator knows, and their state.
//!
//! Invariant: a counter that does not answer is listed too, with the reason.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{App, Whole, json};
use headcount_coordinator::CounterView;
use headcount_runtime::clock::now_ms;

/// The counters that a coordinator knows.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CountersAnswer {
    /// All counters that this coordinator knows.
    counters: Vec<CounterAnswer>,
}

/// The state of a counter.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CounterState {
    /// It answers, and has all items that it should have.
    Complete,
    /// It answers, but may lack items.
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
    "position": {
        "epochs": 2,
        "epoch": "0f2f5b0d2c608f2da89777b90c7c6b59",
        "sequence": 4,
        "holes": 0,
    },
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
    /// The name of the counter.
    name: String,
    /// The state of the counter.
    state: CounterState,
    /// Why it is unreachable or incomplete.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    reason: Option<String>,
    /// Why it accepts no deliveries, and what its operator has to do; absent while it accepts them.
    /// It still answers reads with the items that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    problem: Option<String>,
    /// The number of tenants that have items.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    tenants: Option<u64>,
    /// The number of items that it counts, over all tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    items: Option<u64>,
    /// A summary of the batches that it has applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    position: Option<PositionAnswer>,
    /// The age of the last applied batch at the time it was applied, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    lag_ms: Option<u64>,
    /// When it last answered or announced itself, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    last_seen_ms: Option<u64>,
    /// Time since it last announced itself, in milliseconds; null for a counter in the same
    /// process.
    #[schema(required = true)]
    last_seen_ms_ago: Option<u64>,
    /// The number of appended batches that it has not applied; null if unknown.
    #[schema(required = true)]
    lag_batches: Option<u64>,
    /// The number of messages in its queue; null if it has no queue, or if unknown.
    #[schema(required = true)]
    queue_messages: Option<u64>,
    /// The URL at which other nodes reach it; null for a counter in the same process.
    #[schema(required = true)]
    url: Option<String>,
    /// What is wrong with the placement of its queue on the broker's nodes, and which command to
    /// run; absent if no problem is known. This and the next three fields require the
    /// coordinator's setting `management-url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    warning: Option<String>,
    /// The nodes of the broker on which its queue has members.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    queue_members: Option<Vec<String>>,
    /// Those of these nodes that are online.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    queue_members_online: Option<Vec<String>>,
    /// The number of nodes of the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    broker_nodes: Option<u64>,
    /// The number of batches that were delivered again, since it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    redeliveries: Option<u64>,
    /// The number of snapshots of other counters that it has ingested, since it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    snapshots: Option<u64>,
    /// The number of batches whose sequence arrived before with different content, since it
    /// started. This happens if two coordinators use the same epoch, for example after a running
    /// machine was cloned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    forks: Option<u64>,
    /// The size of its files, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    disk_bytes: Option<u64>,
    /// The memory used by its memtables, filters and indexes, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    memory_bytes: Option<u64>,
}

/// A summary of the position of a counter. An epoch is one incarnation of a coordinator.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PositionAnswer {
    /// The number of epochs from which it has applied batches.
    epochs: u64,
    /// The epoch of the batch that it applied last, since it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    epoch: Option<String>,
    /// The greatest sequence that it has applied in that epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    sequence: Option<u64>,
    /// The number of ranges of sequences that it knows to be missing.
    holes: u64,
}

/// Lists the counters that this coordinator knows.
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
