//! Losing disks and queues, joining, leaving: what is healed, and what is reported instead of
//! guessed.
//!
//! Invariant: no answer is exact that misses an acknowledged item.

use serde_json::json;

use crate::cluster::{Cluster, Setup};
use crate::invariant_checker::Load;
use crate::node::items;
use crate::wait;

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_counter_joins_under_load() {
    let mut cluster = Cluster::start(Setup::new()).await;
    let mut load = Load::start(&cluster).await;
    cluster.start_counter("c4", &[]);
    cluster.wait_for_state("c4", "complete").await;
    load.flows().await;
    load.finish(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_disk_a_purged_and_a_deleted_queue_are_healed() {
    let mut cluster = Cluster::start(Setup::new()).await;
    let mut load = Load::start(&cluster).await;
    cluster.destroy_disk("c1");
    cluster.counter("c1").process.restart();
    load.flows().await;
    cluster.wait_for_state("c1", "complete").await;
    cluster.counter("c2").process.kill();
    load.flows().await;
    let node = cluster.broker.node(0);
    assert!(cluster.vhost.purge(node, &Cluster::queue("c2")) > 0);
    cluster.counter("c2").process.restart();
    load.flows().await;
    let node = cluster.broker.node(0);
    cluster.vhost.delete_queue(node, &Cluster::queue("c3"));
    load.flows().await;
    load.finish(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_disks_lost_is_reported_and_not_served_as_zero() {
    let mut cluster = Cluster::start(Setup::new()).await;
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    cluster.shows(0, "asd", 10, "").await;
    for name in ["c1", "c2", "c3"] {
        cluster.counter_holds(name, 10).await;
        // A clean stop acknowledges everything: the queues have nothing left to give back.
        cluster.counter(name).process.terminate();
        cluster.destroy_disk(name);
    }
    for name in ["c1", "c2", "c3"] {
        cluster.counter(name).process.restart();
    }
    for name in ["c1", "c2", "c3"] {
        cluster.wait_for_state(name, "incomplete").await;
    }
    // One that has shown nothing yet knows by the counters alone that something is missing.
    cluster.coordinator(0).process.kill();
    cluster.coordinator(0).process.restart();
    for name in ["c1", "c2", "c3"] {
        cluster.wait_for_state(name, "incomplete").await;
    }
    let answer = cluster.get(0, "/items/asd/count?timeout_ms=5000").await;
    assert_eq!(answer.json["exact"], json!(false), "{}", answer.text);
    cluster.shows_nothing_exactly("asd", 500).await;
    for name in ["c1", "c2", "c3"] {
        cluster.wait_for_state(name, "incomplete").await;
    }
    cluster.accept_loss();
    cluster.post_surely(0, &items("asd", 0, 3)).await;
    cluster.shows(0, "asd", 3, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_counter_stays_removed() {
    let mut cluster = Cluster::start(Setup::new()).await;
    cluster.start_counter("c4", &[]);
    cluster.wait_for_state("c4", "complete").await;
    let (url, queue) = (cluster.amqp_url(), Cluster::queue("c4"));
    let refused = crate::node::run(&["remove-counter", "c4", "--amqp-url", &url, "--yes"]);
    assert!(!refused.status.success(), "it runs: {}", refused.stdout);
    cluster.counter("c4").process.terminate();
    wait::until("a counter that may be removed", async || {
        let ran = crate::node::run(&["remove-counter", "c4", "--amqp-url", &url, "--yes"]);
        match ran.status.success() {
            true => Ok(()),
            false => Err(ran.stderr),
        }
    })
    .await;
    cluster.coordinator(0).process.kill();
    cluster.coordinator(0).process.restart();
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    cluster.shows(0, "asd", 10, "").await;
    let node = cluster.broker.node(0);
    assert!(!cluster.vhost.has_queue(node, &queue));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_coordinators_count_once_and_honour_each_others_tokens() {
    let mut cluster = Cluster::start(Setup::new().coordinators(2)).await;
    let first = cluster.post_surely(0, &items("asd", 0, 10)).await;
    let token = first.json["token"].as_str().expect("a token").to_owned();
    cluster.shows(1, "asd", 10, &format!("after={token}")).await;
    cluster.post_surely(1, &items("asd", 5, 10)).await;
    cluster.shows(0, "asd", 15, "consistency=strong").await;
    cluster.counter("c2").links.down();
    cluster.post_surely(1, &items("asd", 15, 5)).await;
    let node = cluster.broker.node(0);
    cluster.vhost.purge(node, &Cluster::queue("c2"));
    cluster.counter("c2").links.up();
    // Alone, it must not decide.
    for name in ["c1", "c3"] {
        cluster.counter(name).process.pause();
    }
    let path = "/items/asd/count?consistency=strong&timeout_ms=8000";
    let alone = cluster.get(0, path).await;
    assert_eq!(alone.status, 503, "{}", alone.text);
    for name in ["c1", "c3"] {
        cluster.counter(name).process.resume();
    }
    cluster.shows(0, "asd", 20, "consistency=strong").await;
}
