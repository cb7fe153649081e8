//! Backups that are put back, and a broker that lost its disk: what is old is not taken for what
//! is.
//!
//! Invariant: no answer is exact that misses an acknowledged item, until the operator has signed
//! that it is lost.

use crate::broker::Broker;
use crate::cluster::{Cluster, Setup};
use crate::invariant_checker::Load;
use crate::node::{Answer, items};
use crate::wait;

const NAMES: [&str; 3] = ["c1", "c2", "c3"];

/// An operator puts an old copy of a folder back, although the docs say not to.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_restored_from_an_old_copy_catches_up() {
    let mut cluster = Cluster::start(Setup::new()).await;
    let mut load = Load::start(&cluster).await;
    let folder = cluster.data_dir("c1");
    let copy = cluster.data_dir("copy-of-c1");
    cluster.counter("c1").process.terminate();
    Cluster::copy_folder(&folder, &copy);
    cluster.counter("c1").process.restart();
    load.flows().await;
    load.runs_for(wait::step()).await;
    cluster.counter("c1").process.terminate();
    Cluster::copy_folder(&copy, &folder);
    cluster.counter("c1").process.restart();
    load.flows().await;
    load.finish(&mut cluster).await;
}

/// The same without any later post that would show the hole, and nobody else to show it.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_alone_is_not_exact() {
    let mut cluster = Cluster::start(Setup::new()).await;
    let folder = cluster.data_dir("c1");
    let copy = cluster.data_dir("copy-of-c1");
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    cluster.shows(0, "asd", 10, "").await;
    cluster.counter("c1").process.terminate();
    Cluster::copy_folder(&folder, &copy);
    cluster.counter("c1").process.restart();
    cluster.post_surely(0, &items("asd", 10, 10)).await;
    cluster.counter_holds("c1", 20).await;
    for name in NAMES {
        cluster.counter(name).process.terminate();
    }
    Cluster::copy_folder(&copy, &folder);
    cluster.counter("c1").process.restart();
    cluster.wait_for_state("c1", "incomplete").await;
    let counters = cluster.counters(0).await.expect("counters");
    let why = counters["c1"]["reason"].to_string();
    assert!(why.contains("an older copy"), "{why}");
    cluster.shows_nothing_exactly("asd", 500).await;
    cluster.coordinator(0).process.kill();
    cluster.coordinator(0).process.restart();
    cluster.shows_nothing_exactly("asd", 500).await;
    for name in ["c2", "c3"] {
        cluster.counter(name).process.restart();
    }
    cluster.shows(0, "asd", 20, "").await;
    cluster.counter_holds("c1", 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_broker_is_not_taken_for_the_old_one() {
    let mut cluster = Cluster::start(Setup::on(Broker::private())).await;
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    cluster.shows(0, "asd", 10, "").await;
    for name in NAMES {
        cluster.counter(name).process.terminate();
    }
    // Only the broker has these.
    cluster.post_surely(0, &items("asd", 10, 10)).await;
    cluster.broker.node(0).replace();
    cluster.vhost.create(cluster.broker.node(0));
    for name in NAMES {
        cluster.counter(name).process.restart();
    }
    for name in NAMES {
        cluster.wait_for_state(name, "incomplete").await;
    }
    cluster.shows_nothing_exactly("asd", 500).await;
    cluster.post_surely(0, &items("asd", 15, 10)).await;
    cluster.shows_nothing_exactly("asd", 500).await;
    cluster.accept_loss();
    assert_eq!(cluster.exact_count(0, "asd", "").await, 20);
    cluster.post_surely(0, &items("asd", 0, 25)).await;
    cluster.shows(0, "asd", 25, "consistency=strong").await;
}

/// What definitions hold is back, and no message: the markers say that nothing happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_restored_from_definitions_is_not_taken_for_the_old_one() {
    let mut cluster = Cluster::start(Setup::on(Broker::private())).await;
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    for name in NAMES {
        cluster.counter_holds(name, 10).await;
        cluster.counter(name).process.terminate();
    }
    // Only the broker has these.
    cluster.post_surely(0, &items("asd", 10, 10)).await;
    cluster.coordinator(0).process.terminate();
    let definitions = cluster.vhost.definitions(cluster.broker.node(0));
    cluster.broker.node(0).replace();
    cluster.vhost.create(cluster.broker.node(0));
    cluster.vhost.define(cluster.broker.node(0), &definitions);
    for name in NAMES {
        cluster.counter(name).process.restart();
    }
    cluster.coordinator(0).process.restart();
    for name in NAMES {
        cluster.wait_for_state(name, "incomplete").await;
        let counters = cluster.counters(0).await.expect("counters");
        let why = counters[name]["reason"].to_string();
        assert!(why.contains("exported definitions"), "{why}");
        let ready = cluster.counter(name).process.url() + "/readyz";
        let ready = Answer::of(cluster.http.get(ready)).await;
        assert_eq!(ready.status, 503);
        assert!(
            ready.text.contains("exported definitions"),
            "{}",
            ready.text
        );
    }
    assert_eq!(cluster.get(0, "/readyz").await.status, 503);
    cluster.shows_nothing_exactly("asd", 500).await;
    cluster.accept_loss();
    assert_eq!(cluster.exact_count(0, "asd", "").await, 10);
    cluster.post_surely(0, &items("asd", 0, 20)).await;
    cluster.shows(0, "asd", 20, "consistency=strong").await;
    // What they told stays told: nothing is said again.
    for name in NAMES {
        cluster.counter(name).process.terminate();
        cluster.counter(name).process.restart();
        cluster.wait_for_state(name, "complete").await;
    }
    cluster.shows(0, "asd", 20, "consistency=strong").await;
}

/// No renewal comes through while the broker takes no messages, and its memory is freed by what
/// counters take.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_starts_while_the_broker_takes_nothing_empties_its_queue() {
    let mut cluster = Cluster::start(Setup::on(Broker::private())).await;
    cluster.counter("c1").process.kill();
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    cluster.broker.node(0).memory_alarm(true);
    cluster.counter("c1").process.restart();
    let url = cluster.counter("c1").process.url();
    let metrics = format!("{url}/metrics");
    let http = cluster.http.clone();
    wait::until("c1 with all items", async || {
        let answer = Answer::try_of(http.get(&metrics)).await;
        let text = answer.map_err(|why| why.to_string())?.text;
        let mut lines = text.lines().map(str::to_owned);
        let items = lines.find(|line| line.starts_with("headcount_counter_items{"));
        match items {
            Some(line) if line.ends_with(" 10") => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    cluster.broker.node(0).memory_alarm(false);
    cluster.post_surely(0, &items("asd", 10, 10)).await;
    cluster.shows(0, "asd", 20, "consistency=strong").await;
    assert!(
        !cluster
            .counter("c1")
            .process
            .log()
            .contains("may have been lost")
    );
}

/// Literally as the operations guide says.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_cluster_is_restored_from_the_folder_of_one_counter() {
    let mut cluster = Cluster::start(Setup::on(Broker::private())).await;
    let folder = cluster.data_dir("c1");
    let copy = cluster.data_dir("copy-of-c1");
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    cluster.counter_holds("c1", 10).await;
    cluster.counter("c1").process.terminate();
    Cluster::copy_folder(&folder, &copy);
    cluster.post_surely(0, &items("asd", 10, 10)).await;

    cluster.coordinator(0).process.terminate();
    for name in ["c2", "c3"] {
        cluster.counter(name).process.terminate();
    }
    for name in NAMES {
        std::fs::remove_dir_all(cluster.data_dir(name)).expect("removed");
    }
    cluster.broker.node(0).replace();
    cluster.vhost.create(cluster.broker.node(0));
    Cluster::copy_folder(&copy, &folder);
    cluster.counter("c1").process.restart();
    cluster.coordinator(0).process.restart();
    cluster.wait_for_state("c1", "incomplete").await;
    for name in ["c2", "c3"] {
        cluster.counter(name).process.restart();
        cluster.wait_for_state(name, "incomplete").await;
    }
    cluster.shows_nothing_exactly("asd", 500).await;
    cluster.accept_loss();
    cluster.shows(0, "asd", 10, "").await;
    cluster.post_surely(0, &items("asd", 5, 15)).await;
    cluster.shows(0, "asd", 20, "consistency=strong").await;
    cluster.wait_until_complete().await;
    for name in NAMES {
        cluster.counter_holds(name, 20).await;
    }
    cluster.stop_and_verify(1, 20);
}
