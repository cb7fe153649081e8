//! The four risks of the system that Headcount replaces, in the distributed form, and items before
//! any counter.
//!
//! Invariant: each test is named for its risk and does literally what the risk says.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Setup};
use crate::node::items;

/// A read of half a second is answered by then, even on a machine that is busy.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// Posts `count` items of tenant `asd` in batches; every post is acknowledged.
async fn post(cluster: &mut Cluster, first: u64, count: u64) {
    const BATCH: u64 = 5_000;
    for start in (first..first + count).step_by(BATCH as usize) {
        let batch = items("asd", start, BATCH.min(first + count - start));
        cluster.post_surely(0, &batch).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn risk_1_a_counters_memory_does_not_grow_with_its_items() {
    let mut cluster = Cluster::start(Setup::new()).await;
    post(&mut cluster, 0, 100_000).await;
    cluster.shows(0, "asd", 100_000, "").await;
    let before = cluster.counter("c1").process.resident_bytes();
    post(&mut cluster, 100_000, 400_000).await;
    cluster.shows(0, "asd", 500_000, "").await;
    let after = cluster.counter("c1").process.resident_bytes();
    let a_copy = 400_000 * 16;
    assert!(after < before + a_copy, "{before} bytes, then {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn risk_2_a_lost_hop_loses_no_item() {
    let mut cluster = Cluster::start(Setup::new()).await;
    post(&mut cluster, 0, 10).await;
    for name in ["c1", "c2", "c3"] {
        cluster.counter(name).links.down();
    }
    post(&mut cluster, 10, 10).await;
    cluster.coordinator(0).links.cut();
    post(&mut cluster, 20, 10).await;
    for name in ["c1", "c2", "c3"] {
        cluster.counter(name).links.up();
    }
    cluster.shows(0, "asd", 30, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn risk_3_all_counters_down_loses_nothing() {
    let mut cluster = Cluster::start(Setup::new()).await;
    post(&mut cluster, 0, 10).await;
    for name in ["c1", "c2", "c3"] {
        cluster.counter(name).process.kill();
    }
    post(&mut cluster, 10, 10).await;
    let asked = Instant::now();
    let answer = cluster.get(0, "/items/asd/count?timeout_ms=500").await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert!(asked.elapsed() < READ_LIMIT, "{:?}", asked.elapsed());
    for name in ["c1", "c2", "c3"] {
        cluster.counter(name).process.restart();
    }
    cluster.shows(0, "asd", 20, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn risk_4_an_item_that_only_one_counter_took_is_in_every_answer() {
    let mut cluster = Cluster::start(Setup::new()).await;
    for name in ["c2", "c3"] {
        cluster.counter(name).process.terminate();
    }
    post(&mut cluster, 0, 10).await;
    cluster.shows(0, "asd", 10, "").await;
    for name in ["c2", "c3"] {
        cluster.counter(name).process.restart();
    }
    cluster.counter("c1").process.kill();
    cluster.shows(0, "asd", 10, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_posted_before_any_counter_ever_ran_are_counted_by_all() {
    let mut cluster = Cluster::prepare(Setup::new());
    cluster.start_coordinators();
    post(&mut cluster, 0, 10).await;
    cluster.start_counters();
    cluster.wait_until_complete().await;
    cluster.shows(0, "asd", 10, "consistency=strong").await;
    for name in ["c1", "c2", "c3"] {
        cluster.counter_holds(name, 10).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_while_the_broker_or_two_counters_are_away() {
    let mut cluster = Cluster::start(Setup::new()).await;
    post(&mut cluster, 0, 10).await;
    cluster.shows(0, "asd", 10, "").await;
    for name in ["c1", "c2", "c3"] {
        cluster.counter_holds(name, 10).await;
    }
    cluster.coordinator(0).links.down();
    for name in ["c1", "c2", "c3"] {
        cluster.counter(name).links.down();
    }
    cluster.shows(0, "asd", 10, "").await;
    for name in ["c2", "c3"] {
        cluster.counter(name).process.kill();
    }
    cluster.shows(0, "asd", 10, "").await;
}
