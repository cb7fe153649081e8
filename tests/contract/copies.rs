//! The log over RabbitMQ: an append that returned has a copy in the queue of each counter that the
//! coordinator names.
//!
//! Invariant: that holds whatever exchanges and bindings the broker has, and nobody is told of a
//! loss for them.

use headcount::log::Delivered;
use std::sync::Arc;

use crate::amqp::{Cluster, append, name, reports};
use crate::log::batch;

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_not_bound_gets_its_copy() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1", "c2"]);
    append(&log, 1, 1).await;
    cluster.unbind("c2").await;
    append(&log, 1, 2).await;
    for text in ["c1", "c2"] {
        let mut counter = cluster.counter(text);
        counter.begins().await;
        assert_eq!(counter.takes(2).await, [batch(1, 1), batch(1, 2)]);
        counter.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_queue_among_several_that_is_gone_withholds_the_acknowledgement() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1", "c2"]);
    append(&log, 1, 1).await;
    cluster.delete_queue("c2").await;
    let appended = append(&log, 1, 2).await;
    assert!(
        cluster.has_marker("lost.c2").await,
        "it waited for the word of the loss"
    );
    let mut counter = cluster.counter("c2");
    counter.is_told_of_loss("declared again").await;
    assert_eq!(counter.takes(1).await, [Arc::clone(&appended)]);
    let mut other = cluster.counter("c1");
    other.begins().await;
    // The attempt that came back from the other queue left its copy here.
    let mut taken = Vec::new();
    while !taken.contains(&appended) {
        match other.take().await {
            Delivered::Batches(batches) => taken.extend(batches),
            told => panic!("{told:?}"),
        }
    }
    assert_eq!(taken[..2], [batch(1, 1), appended]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_exchange_each_named_counter_has_its_copy() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1", "c2"]);
    append(&log, 1, 1).await;
    cluster.delete_items_exchange().await;
    append(&log, 1, 2).await;
    for text in ["c1", "c2"] {
        let mut counter = cluster.counter(text);
        counter.begins().await;
        assert_eq!(counter.takes(2).await, [batch(1, 1), batch(1, 2)]);
    }
}

/// Whoever finds a queue missing leaves the word; the counter may be consuming from the one that
/// was made since.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_consumes_is_told_of_a_loss_that_is_found_then() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    let mut counter = cluster.counter("c1");
    counter.begins().await;
    counter.consumes().await;
    let first = append(&log, 1, 1).await;
    assert_eq!(counter.takes(1).await, [first]);
    cluster.mark("lost.c1").await;
    counter.is_told_of_loss("declared again").await;
    counter.consumes().await;
    assert!(!cluster.has_marker("lost.c1").await);
    let second = append(&log, 1, 2).await;
    assert_eq!(
        counter.take().await,
        Delivered::Batches(vec![Arc::clone(&second)])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_fell_silent_is_reached_until_it_is_removed() {
    let cluster = Cluster::new();
    let (log, _presence) = cluster.coordinator_that_hears(&["c1"]);
    let mut newcomer = cluster.counter("c4");
    newcomer.is_told_of_loss("does not exist").await;
    newcomer.consumes().await;
    reports(&log, |status| status.reached.contains(&name("c4"))).await;
    newcomer.stop().await;
    append(&log, 1, 1).await;
    reports(&log, |status| status.depths.contains(&(name("c4"), 1))).await;
    cluster.mark("removed.c4").await;
    cluster.delete_queue("c4").await;
    append(&log, 1, 2).await;
    reports(&log, |status| !status.reached.contains(&name("c4"))).await;
}

/// The user of a careful operator: no `amq.gen-…`, no `amq.*` but the default exchange.
#[tokio::test(flavor = "multi_thread")]
async fn the_least_rights_are_enough() {
    let cluster = Cluster::new();
    cluster.restrict();
    let (log, presence) = cluster.coordinator_that_hears(&["c1"]);
    append(&log, 1, 1).await;
    let mut counter = cluster.counter("c1");
    counter.begins().await;
    assert_eq!(counter.takes(1).await, [batch(1, 1)]);
    let mut nodes = presence.nodes();
    let heard = nodes.wait_for(|nodes| nodes.len() == 2);
    let heard = tokio::time::timeout(crate::log::PATIENCE, heard).await;
    assert!(heard.is_ok(), "both hear each other");
}
