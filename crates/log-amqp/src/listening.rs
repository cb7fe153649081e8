//! Listening for the other counters before a first start.
//!
//! Invariant: a result covers only announcements that arrived after this counter heard its own, so
//! it includes every counter that announces itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::discovery::wait_for;
use super::startup::{Peers, judge_peers};
use super::{AmqpOptions, Nodes};
use headcount_model::CounterName;

/// The number of announcement intervals to listen before silence counts.
const LISTEN_INTERVALS: u32 = 3;
/// How long a peer may not know whether it has started before it counts as not started.
const UNSURE_MAX: Duration = Duration::from_secs(30);

/// Listens until counter `name` has heard itself, and then long enough to hear all others.
pub(super) async fn listen(
    options: &AmqpOptions,
    name: &CounterName,
    nodes: &mut watch::Receiver<Arc<Nodes>>,
) -> Peers {
    let started = Instant::now();
    tracing::info!(
        counter = %name,
        "listening for other counters before the first start"
    );
    let own = |nodes: &Arc<Nodes>| {
        let heard = |sighting: &super::Sighting| {
            sighting.announcement.name == name.as_str() && sighting.seen_at >= started
        };
        nodes.values().any(heard)
    };
    wait_for(nodes, own).await;
    let since = Instant::now();
    let span = options.presence_interval * LISTEN_INTERVALS;
    tokio::time::sleep(span).await;
    loop {
        let heard = Arc::clone(&nodes.borrow_and_update());
        let mut peers = judge_peers(name, &heard, |sighting| sighting.seen_at.elapsed() < span);
        if peers.unsure.is_some() && since.elapsed() > UNSURE_MAX {
            peers.older_than_broker = peers.older_than_broker.or(peers.unsure.take());
        }
        if peers.unsure.is_none() {
            return peers;
        }
        tokio::time::sleep(options.presence_interval).await;
    }
}
