//! What vanishes from the broker between a look at it and the declaration that follows, and what
//! only seems to.
//!
//! Invariant: whoever saw a queue never creates it: its counter is told of the loss first.

use std::sync::Arc;
use std::time::Duration;

use headcount::log::amqp::depths;
use headcount::log::{DeliveryError, StoreStatus};
use parking_lot::Mutex;

use crate::amqp::{Cluster, append, name, reports};
use crate::counter::Counter;

/// The declaration that follows a counter's look, whatever it decides.
const STARTED: &str = "started.c1";
/// The first declaration that follows a coordinator's look.
const ITEMS: &str = "items.0";

/// A cluster of `c1` and `c2` where `c1` has taken a batch and is stopped; its store.
async fn with_history(cluster: &Cluster) -> Arc<Mutex<StoreStatus>> {
    let log = cluster.coordinator(&["c1", "c2"]);
    let mut counter = cluster.counter("c1");
    counter.begins().await;
    append(&log, 1, 1).await;
    counter.takes(1).await;
    counter.stop().await
}

/// It was told, consumes, and is not complete.
async fn consumes_as_incomplete(counter: &mut Counter) {
    counter.consumes().await;
    assert!(!counter.standing.lock().complete);
}

/// A counter is restarted while its queue is slowly being deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_vanishes_behind_a_counter_s_look_is_a_loss() {
    let cluster = Cluster::new();
    let store = with_history(&cluster).await;
    let relay = cluster.relay();
    relay.hold_at(&cluster.declaration_of(STARTED));
    let mut counter = cluster.counter_by(&relay, "c1", store);
    relay.held().await;
    cluster.delete_queue("c1").await;
    relay.up();
    counter.is_told_of_loss("counter c1").await;
    consumes_as_incomplete(&mut counter).await;
}

/// It has just said that its store is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_vanishes_behind_a_first_start_is_a_loss() {
    let cluster = Cluster::new();
    let _log = cluster.coordinator(&["c1", "c2"]);
    let relay = cluster.relay();
    relay.hold_at(&cluster.declaration_of(STARTED));
    let mut counter = cluster.counter_by(&relay, "c1", Arc::default());
    counter.begins().await;
    relay.held().await;
    cluster.delete_queue("c1").await;
    relay.up();
    counter.is_told_of_loss("counter c1").await;
    consumes_as_incomplete(&mut counter).await;
}

/// Created without word of the loss, as earlier releases do: what was seen to be gone is a loss all
/// the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_vanished_and_came_back_is_a_loss() {
    let cluster = Cluster::new();
    let store = with_history(&cluster).await;
    let relay = cluster.relay();
    relay.hold_at(&cluster.declaration_of(STARTED));
    let mut counter = cluster.counter_by(&relay, "c1", store);
    relay.held().await;
    cluster.delete_queue("c1").await;
    relay.hold_at(&cluster.question_for("founded"));
    relay.up();
    relay.held().await;
    cluster.create_queue("c1").await;
    relay.up();
    counter.is_told_of_loss("counter c1").await;
    consumes_as_incomplete(&mut counter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_vanishes_behind_a_coordinator_s_look_is_told_of() {
    let cluster = Cluster::new();
    let store = with_history(&cluster).await;
    let relay = cluster.relay();
    relay.hold_at(&cluster.declaration_of(ITEMS));
    let log = cluster.coordinator_by(&relay, &["c1", "c2"]);
    relay.held().await;
    cluster.delete_queue("c1").await;
    relay.up();
    let appended = append(&log, 2, 1).await;
    reports(&log, |status| status.connected).await;
    assert!(cluster.has_marker("lost.c1").await);
    let mut counter = cluster.counter_over("c1", store);
    counter.is_told_of_loss("declared again").await;
    assert_eq!(counter.takes(1).await, [appended]);
}

/// Its queue would grow for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_is_removed_behind_its_look_creates_no_queue() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    append(&log, 1, 1).await;
    let relay = cluster.relay();
    relay.hold_at(&cluster.declaration_of("started.c4"));
    let mut newcomer = cluster.counter_by(&relay, "c4", Arc::default());
    newcomer.is_told_of_loss("does not exist").await;
    relay.held().await;
    cluster.mark("removed.c4").await;
    relay.up();
    let refused = newcomer.next().await;
    assert!(
        matches!(&refused, Err(DeliveryError::Refused(why)) if why.contains("removed")),
        "{refused:?}"
    );
    let known = depths(cluster.options.clone(), &[name("c4")]).await;
    assert_eq!(known, Ok(vec![(name("c4"), None)]));
}

/// Created by a counter, the exchange would reach no queue but its own, and what is posted would be
/// confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_gone_is_left_to_the_coordinators() {
    let cluster = Cluster::new();
    let store = with_history(&cluster).await;
    let relay = cluster.relay();
    let log = cluster.coordinator_by(&relay, &["c1", "c2"]);
    append(&log, 2, 1).await;
    relay.down();
    cluster.delete_items_exchange().await;
    let mut counter = cluster.counter_over("c1", store);
    let early = tokio::time::timeout(Duration::from_secs(1), counter.consumes()).await;
    assert!(early.is_err(), "it declared the exchange");
    relay.up();
    // Nothing has to be posted for that.
    counter.takes(1).await;
    append(&log, 2, 2).await;
    counter.takes(1).await;
    let queues = [(name("c1"), 0), (name("c2"), 3)];
    reports(&log, |status| status.depths == queues).await;
}

/// The broker says "not found" of it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_cannot_be_reached_for_now_is_no_loss() {
    let cluster = Cluster::new();
    let store = with_history(&cluster).await;
    cluster.set_queue_state("c1", "crashed");
    let log = cluster.coordinator(&["c1", "c2"]);
    let mut counter = cluster.counter_over("c1", store);
    counter.stays_quiet(Duration::from_secs(1)).await;
    assert!(log.status().borrow().missing.is_empty());
    cluster.set_queue_state("c1", "live");
    let appended = append(&log, 2, 1).await;
    assert_eq!(counter.takes(1).await, [appended]);
    assert!(counter.standing.lock().complete);
    assert!(!cluster.has_marker("lost.c1").await);
}
