//! A broker of several nodes, one of which does not know the cluster: it lost its disk, and has not
//! joined the others again.
//!
//! Invariant: nothing is declared there, and nothing acknowledged, whoever is sent to it first.

use std::sync::Arc;
use std::time::Duration;

use headcount::log::Log;

use crate::amqp::{Cluster, append};
use crate::kit::wait;
use crate::log::batch;

/// Longer than a renewal that fails is tried again.
const RENEWED: Duration = Duration::from_secs(7);

/// What shows that somebody took the node for a new broker.
const FOUNDED: [&str; 3] = ["founded", "founding.c1", "replaced"];

#[tokio::test(flavor = "multi_thread")]
async fn who_starts_at_a_node_without_the_cluster_goes_on_to_the_next() {
    let mut cluster = Cluster::new();
    append(&cluster.coordinator(&["c1"]), 1, 1).await;
    // A virtual host of its own stands for the node: neither knows the other.
    let wiped = Cluster::new();
    cluster
        .options
        .urls
        .insert(0, wiped.options.urls[0].clone());
    append(&cluster.coordinator(&["c1"]), 2, 1).await;
    let mut counter = cluster.counter("c1");
    counter.begins().await;
    assert_eq!(counter.takes(2).await, [batch(1, 1), batch(2, 1)]);
    let barriers = cluster.barriers_of("c1");
    append(&barriers, 3, 1).await;
    assert_eq!(counter.takes(1).await, [batch(3, 1)]);
    // Nor is its generation renewed by way of the other node.
    counter.consumes().await;
    let mut status = counter.deliveries.status();
    status.borrow_and_update();
    counter.stays_quiet(RENEWED).await;
    assert!(!status.has_changed().expect("it goes on"));
    for marker in FOUNDED {
        assert!(!wiped.has_marker(marker).await, "{marker}");
    }
}

/// What a wiped node got back of the cluster tells of no founding that holds: the messages are
/// missing.
#[tokio::test(flavor = "multi_thread")]
async fn who_starts_at_a_node_with_imported_definitions_goes_on_to_the_next() {
    let mut cluster = Cluster::new();
    append(&cluster.coordinator(&["c1"]), 1, 1).await;
    let wiped = Cluster::new();
    wiped.import(&cluster);
    let urls = [&wiped, &cluster].map(|of| of.options.urls[0].clone());
    cluster.options.urls = urls.to_vec();
    append(&cluster.coordinator(&["c1"]), 2, 1).await;
    let mut counter = cluster.counter("c1");
    counter.begins().await;
    assert_eq!(counter.takes(2).await, [batch(1, 1), batch(2, 1)]);
    assert!(!wiped.has_marker("started.c1").await);
}

/// Who had declared comes back to a node that knows nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_founds_no_second_cluster_while_an_address_is_silent() {
    let mut cluster = Cluster::new();
    append(&cluster.coordinator(&["c1"]), 2, 1).await;
    let relay = cluster.relay();
    let wiped = Cluster::new();
    cluster.options.urls = vec![cluster.url_by(&relay), wiped.options.urls[0].clone()];
    let log = cluster.coordinator(&["c1"]);
    append(&log, 1, 1).await;
    relay.down();
    let appended = batch(1, 2);
    let mut appending = std::pin::pin!(log.append(Arc::clone(&appended)));
    let early = tokio::time::timeout(Duration::from_secs(5), &mut appending).await;
    assert!(early.is_err(), "where no counter looks: {early:?}");
    for marker in FOUNDED {
        assert!(!wiped.has_marker(marker).await, "{marker}");
    }
    relay.up();
    let late = tokio::time::timeout(wait::PATIENCE, appending).await;
    late.expect("in time").expect("appended");
    let mut counter = cluster.counter("c1");
    counter.begins().await;
    assert_eq!(counter.takes(3).await, [batch(2, 1), batch(1, 1), appended]);
}

/// All of it is new.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_founded_where_no_address_knows_one() {
    let mut cluster = Cluster::new();
    let other = Cluster::new();
    cluster.options.urls.push(other.options.urls[0].clone());
    append(&cluster.coordinator(&["c1"]), 1, 1).await;
    let founded = [
        cluster.has_marker("founded").await,
        other.has_marker("founded").await,
    ];
    assert_eq!(founded.iter().filter(|&&founded| founded).count(), 1);
    // Whoever has the addresses in another order founds at the same one.
    let (mut cluster, mut other) = (Cluster::new(), Cluster::new());
    cluster.options.urls.push(other.options.urls[0].clone());
    other.options.urls.push(cluster.options.urls[0].clone());
    let (one, another) = (cluster.coordinator(&["c1"]), other.coordinator(&["c1"]));
    tokio::join!(append(&one, 1, 1), append(&another, 2, 1));
    let founded = [
        cluster.has_marker("founded").await,
        other.has_marker("founded").await,
    ];
    assert_eq!(founded.iter().filter(|&&founded| founded).count(), 1);
}
