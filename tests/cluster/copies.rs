//! What a broker's operator does to exchanges, bindings and queues while clients post, and who has
//! a copy afterwards.
//!
//! Invariant: no acknowledgement without a copy in the queue of each named counter, or in its
//! store: any one counter alone has everything that was acknowledged, whatever becomes of the
//! others.

use crate::amqp::Client;
use crate::broker::{PASSWORD, USER};
use crate::cluster::{Cluster, Setup};
use crate::invariant_checker::Load;
use crate::node::items;
use crate::wait;

const CLIENTS: u64 = 32;
const EXCHANGE: &str = "headcount.items.0";
const COUNTERS: [&str; 3] = ["c1", "c2", "c3"];

fn operator(cluster: &Cluster) -> Client {
    let port = cluster.broker.node(0).port();
    let connected = Client::connect(port, cluster.vhost.name(), USER, PASSWORD);
    connected.expect("connected")
}

/// Everybody but this counter is killed, loses its disk, and comes back with nothing.
async fn leave_alone(cluster: &mut Cluster, survivor: &str) {
    for name in COUNTERS.into_iter().filter(|&name| name != survivor) {
        cluster.destroy_disk(name);
    }
    for name in COUNTERS.into_iter().filter(|&name| name != survivor) {
        cluster.counter(name).process.restart();
    }
    for name in COUNTERS {
        cluster.wait_for_state(name, "complete").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_exchange_or_its_binding_a_counter_alone_has_everything() {
    let mut cluster = Cluster::start(Setup::new()).await;
    let mut load = Load::of_clients(CLIENTS, &cluster).await;
    for survivor in COUNTERS {
        operator(&cluster)
            .delete_exchange(EXCHANGE)
            .expect("deleted");
        // The first to connect again is another one.
        let other = COUNTERS.into_iter().find(|&name| name != survivor);
        cluster.counter(other.expect("one of three")).links.cut();
        load.runs_for(wait::step()).await;
        load.flows().await;
        // The coordinator may not have declared the exchange again yet: then nothing is bound.
        let _ = operator(&cluster).unbind(&Cluster::queue(survivor), EXCHANGE);
        load.runs_for(wait::step()).await;
        load.flows().await;
        leave_alone(&mut cluster, survivor).await;
    }
    load.finish(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_deleted_one_after_the_other_lose_nothing() {
    let mut cluster = Cluster::start(Setup::new()).await;
    let mut load = Load::of_clients(CLIENTS, &cluster).await;
    for (deleted, survivor) in [("c1", "c2"), ("c2", "c3"), ("c3", "c1")] {
        cluster.counter(survivor).process.pause();
        load.runs_for(wait::step()).await;
        let node = cluster.broker.node(0);
        cluster.vhost.delete_queue(node, &Cluster::queue(deleted));
        load.runs_for(wait::step()).await;
        cluster.counter(survivor).process.resume();
        load.flows().await;
        cluster.wait_for_state(deleted, "complete").await;
        leave_alone(&mut cluster, survivor).await;
    }
    load.finish(&mut cluster).await;
}

/// All queues lose the same acknowledged batch; a later one shows that it was there.
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_that_all_counters_share_is_told_by_every_coordinator() {
    let mut cluster = Cluster::start(Setup::new().coordinators(2)).await;
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    cluster.shows(1, "asd", 10, "consistency=strong").await;
    for name in COUNTERS {
        cluster.counter_holds(name, 10).await;
        cluster.counter(name).process.terminate();
    }
    cluster.post_surely(0, &items("asd", 10, 100)).await;
    let node = cluster.broker.node(0);
    for name in COUNTERS {
        assert!(cluster.vhost.purge(node, &Cluster::queue(name)) > 0);
    }
    cluster.post_surely(0, &items("asd", 110, 10)).await;
    for name in COUNTERS {
        cluster.counter(name).process.restart();
    }
    for name in COUNTERS {
        cluster.counter_holds(name, 20).await;
    }
    for round in ["that saw it", "that start after it"] {
        for number in [0, 1] {
            for options in ["timeout_ms=300", "timeout_ms=3000&consistency=strong"] {
                let path = format!("/items/asd/count?{options}");
                let answer = cluster.get(number, &path).await;
                assert_ne!(answer.json["exact"], true, "{round}: {}", answer.text);
            }
            cluster.coordinator(number).process.kill();
            cluster.coordinator(number).process.restart();
        }
    }
    cluster.accept_loss();
    let counted = cluster.exact_count(1, "asd", "consistency=strong").await;
    assert_eq!(counted, 20);
}

/// A coordinator that starts while it is away does not hear of it, and has no copies for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_joined_counter_that_was_away_does_not_take_itself_for_whole() {
    let mut cluster = Cluster::start(Setup::new()).await;
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    cluster.start_counter("c4", &[]);
    cluster.wait_for_state("c4", "complete").await;
    cluster.counter("c4").process.terminate();
    cluster.coordinator(0).process.kill();
    cluster.coordinator(0).process.restart();
    cluster.post_surely(0, &items("asd", 10, 10)).await;
    for name in COUNTERS {
        cluster.counter_holds(name, 20).await;
        cluster.counter(name).process.terminate();
        cluster.destroy_disk(name);
    }
    cluster.counter("c4").process.restart();
    cluster.wait_for_state("c4", "incomplete").await;
    for name in COUNTERS {
        cluster.counter(name).process.restart();
        cluster.wait_for_state(name, "incomplete").await;
    }
    cluster.shows_nothing_exactly("asd", 500).await;
}
