//! Kills, cuts, stalls and alarms under load.
//!
//! Invariant: afterwards every counter alone holds the same, exact counts; meanwhile no exact
//! answer misses an acknowledged item or goes backwards.

use std::time::Duration;

use crate::broker::Broker;
use crate::cluster::{Cluster, Setup};
use crate::invariant_checker::Load;
use crate::tcp_proxy::{BASIC_ACK, BASIC_DELIVER, Flow, TcpProxy};
use crate::wait;

#[tokio::test(flavor = "multi_thread")]
async fn killing_each_process_in_turn_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start(Setup::new()).await;
    let mut load = Load::start(&cluster).await;
    for name in ["c1", "c2", "c3"] {
        cluster.counter(name).process.kill();
        load.runs_for(wait::step()).await;
        cluster.counter(name).process.restart();
        load.flows().await;
    }
    cluster.coordinator(0).process.kill();
    load.runs_for(wait::step()).await;
    cluster.coordinator(0).process.restart();
    load.flows().await;
    load.finish(&mut cluster).await;
}

/// Nobody makes good what it acknowledges too early.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_alone_is_killed_and_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start(Setup::new().counters(&["c1"])).await;
    let mut load = Load::start(&cluster).await;
    for _ in 0..5 {
        cluster.counter("c1").process.kill();
        cluster.counter("c1").process.restart();
        load.flows().await;
    }
    load.finish(&mut cluster).await;
}

/// The links to the broker and those to a counter's HTTP server: both ways, and one way, which is
/// worse, since one side goes on.
#[tokio::test(flavor = "multi_thread")]
async fn stalled_and_cut_links_lose_and_double_nothing() {
    let mut cluster = Cluster::start(Setup::new()).await;
    let mut load = Load::start(&cluster).await;
    for (there, back) in [
        (Flow::Stall, Flow::Stall),
        (Flow::Pass, Flow::Stall),
        (Flow::Stall, Flow::Pass),
    ] {
        for link in ["the coordinator's", "c1's", "c1's door"] {
            eprintln!("{link} link: {there:?}, {back:?}");
            let relays = |cluster: &mut Cluster, act: &dyn Fn(&TcpProxy)| match link {
                "the coordinator's" => act(cluster.coordinator(0).links.first()),
                "c1's" => act(cluster.counter("c1").links.first()),
                _ => act(cluster.counter("c1").door.as_ref().expect("it has one")),
            };
            relays(&mut cluster, &|relay| relay.flow(there, back));
            load.runs_for(wait::step()).await;
            relays(&mut cluster, &|relay| {
                relay.cut();
                relay.flow(Flow::Pass, Flow::Pass);
            });
            load.flows().await;
        }
    }
    load.finish(&mut cluster).await;
}

/// What the broker took is published again: the coordinator never heard that it was taken.
#[tokio::test(flavor = "multi_thread")]
async fn swallowed_confirms_and_deliveries_lose_and_double_nothing() {
    let mut cluster = Cluster::start(Setup::new()).await;
    let mut load = Load::start(&cluster).await;
    for _ in 0..3 {
        let link = cluster.coordinator(0).links.first();
        link.swallow(BASIC_ACK).await;
        load.flows().await;
        for name in ["c1", "c2", "c3"] {
            cluster
                .counter(name)
                .links
                .first()
                .swallow(BASIC_DELIVER)
                .await;
        }
        load.flows().await;
    }
    load.finish(&mut cluster).await;
}

/// The broker still holds deliveries for a consumer whose host is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_consumer_hides_nothing() {
    let mut cluster = Cluster::start(Setup::new()).await;
    let mut load = Load::start(&cluster).await;
    cluster.counter("c1").process.pause();
    load.runs_for(wait::step()).await;
    cluster.counter("c1").links.orphan();
    cluster.counter("c1").process.kill();
    cluster.counter("c1").process.restart();
    load.flows().await;
    load.finish(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_and_a_restarted_broker_and_a_memory_alarm_lose_and_double_nothing() {
    let broker = Broker::private();
    let mut cluster = Cluster::start(Setup::on(broker)).await;
    let mut load = Load::start(&cluster).await;
    cluster.broker.kill_and_restart();
    load.flows().await;
    let node = cluster.broker.node(0);
    node.stop();
    load.runs_for(wait::step()).await;
    node.start();
    node.wait_until_up();
    load.flows().await;
    node.memory_alarm(true);
    load.runs_for(wait::step()).await;
    node.memory_alarm(false);
    load.flows().await;
    load.finish(&mut cluster).await;
}

/// The longest that writes may be away when a node of three is lost: what the broker takes to elect
/// new leaders, and the coordinator's `--confirm-timeout-ms`, twice.
const FAILOVER_LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_three_nodes_goes_on_with_two() {
    let broker = Broker::of_three();
    let mut cluster = Cluster::start(Setup::on(broker)).await;
    let mut load = Load::start(&cluster).await;
    for number in 0..3 {
        cluster.broker.node(number).kill();
        load.flows_within(FAILOVER_LIMIT).await;
        cluster.broker.node(number).start();
        cluster.broker.node(number).wait_until_up();
        load.flows().await;
    }
    cluster.broker.isolate(0);
    load.flows_within(FAILOVER_LIMIT).await;
    load.runs_for(wait::phase()).await;
    cluster.broker.reunite(0);
    load.flows().await;
    load.finish(&mut cluster).await;
}
