//! Hardships of a broker of three nodes, under a load of 32 clients: a node that is paused and goes
//! on with what it knew, under each way of handling partitions, and a node that loses its disk.
//!
//! Invariant: as for every load; and at the end each counter, as the only one that is left, has
//! everything that was acknowledged.
//!
//! They take minutes of a machine that does nothing else, so they are run by hand: `cargo test
//! --test cluster three_nodes -- --ignored --test-threads=1 --nocapture`.
//! docs/testing/three-nodes.md has the report.

use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::broker_cluster::{Nodes, PartitionHandling};
use crate::broker_node::BrokerNode;
use crate::cluster::{Cluster, Setup};
use crate::ending;
use crate::invariant_checker::Load;
use crate::tcp_proxy::Flow;
use crate::wait;

/// Clients that post.
const CLIENTS: u64 = 32;

/// Clients that post to one coordinator and ask another at once.
const PROBES: u64 = 4;

/// After so many seconds of silence a node is taken for gone, to within a quarter.
const NET_TICKTIME_S: u32 = 8;

/// How long a node is paused: longer than it takes the others to give it up.
const PAUSE: Duration = Duration::from_secs(14);

/// How long the load goes on with what the pause has left.
const AFTERMATH: Duration = Duration::from_secs(60);

/// How long the nodes may take to become one cluster again by themselves.
const REUNION_LIMIT: Duration = Duration::from_secs(30);

/// How late deliveries are that come late.
const LATE: Duration = Duration::from_millis(250);

/// The longest that writes or exact reads may be away after a hardship.
const RECOVERY_LIMIT: Duration = Duration::from_secs(180);

fn nodes(partition_handling: PartitionHandling) -> Nodes {
    Nodes {
        partition_handling,
        net_ticktime_s: NET_TICKTIME_S,
        ..Nodes::new()
    }
}

/// What came through one node was confirmed by all queues that this node knows of, and it knows of
/// fewer than there are.
///
/// One coordinator uses the first node alone and names only `c1`; another uses the other nodes. The
/// first node is paused; `c2` and `c3` join meanwhile, so that the queues and bindings are made
/// without it.
async fn joiners_meet_a_node_that_was_paused(partition_handling: PartitionHandling) {
    let broker = Broker::of_three_with(nodes(partition_handling));
    let mut cluster = Cluster::prepare(Setup::on(broker));
    cluster.start_coordinator_through(&[0], &["c1"], &[]);
    cluster.start_coordinator_through(&[1, 2], &["c1"], &[]);
    cluster.start_counter_through(&[1, 2], "c1");
    cluster.wait_until_complete().await;
    let mut load = Load::of_clients_who_post_to(vec![0], CLIENTS, &cluster).await;
    load.add_probes(PROBES, 0, 1);

    let since = Instant::now();
    cluster.broker.node(0).pause();
    for name in ["c2", "c3"] {
        cluster.start_counter_through(&[1, 2], name);
    }
    wait::until("the queues of those who join", async || {
        let queues = ["c2", "c3"].map(Cluster::queue);
        let node = cluster.broker.node(1);
        let missing = queues
            .iter()
            .filter(|queue| !cluster.vhost.has_queue(node, queue));
        match missing.count() {
            0 => Ok(()),
            count => Err(format!("{count} missing")),
        }
    })
    .await;
    load.runs_for(PAUSE.saturating_sub(since.elapsed())).await;
    cluster.broker.node(0).resume();
    eprintln!("paused for {:.1} s", since.elapsed().as_secs_f64());
    runs_with_late_deliveries(&mut load, &mut cluster, "c1").await;

    unite(&cluster);
    load.flows_within(RECOVERY_LIMIT).await;
    eprintln!(
        "{} exact strong reads of what was acknowledged just before",
        load.exact_probes()
    );
    finish(load, &mut cluster).await;
}

/// Waits until the nodes are one cluster again, and starts the first again, as an operator does,
/// when they stay apart.
fn unite(cluster: &Cluster) {
    let node = cluster.broker.node(0);
    let deadline = Instant::now() + REUNION_LIMIT;
    while node.running_nodes() != Ok(3) {
        if Instant::now() > deadline {
            eprintln!("the nodes stay apart: the first is started again");
            // It may have stopped by itself.
            let _ = node.try_run("rabbitmqctl", &["stop_app"]);
            node.run("rabbitmqctl", &["start_app"]);
            break;
        }
        std::thread::sleep(LATE);
    }
    for node in cluster.broker.nodes() {
        node.wait_until_of(3);
    }
}

/// The load goes on, and what the broker sends to a counter comes late every now and then, as over
/// a busy link.
async fn runs_with_late_deliveries(load: &mut Load, cluster: &mut Cluster, name: &str) {
    let since = Instant::now();
    while since.elapsed() < AFTERMATH {
        cluster.counter(name).links.flow(Flow::Pass, Flow::Stall);
        load.runs_for(LATE).await;
        cluster.counter(name).links.flow(Flow::Pass, Flow::Pass);
        load.runs_for(LATE * 3).await;
    }
}

/// Everything is retried; then all hold the same, and each counter alone, the others killed, has
/// everything.
async fn finish(load: Load, cluster: &mut Cluster) {
    let ledger = load.settle(cluster).await;
    ending::check(cluster, &ledger).await;
    ending::check_survivors(cluster, &ledger).await;
    let attempted = || ledger.tenants().map(|(_, attempted)| attempted);
    cluster.stop_and_verify(attempted().count(), attempted().sum());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes with three broker nodes: by hand"]
async fn a_paused_node_goes_on_with_old_bindings_when_partitions_are_ignored() {
    joiners_meet_a_node_that_was_paused(PartitionHandling::Ignore).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes with three broker nodes: by hand"]
async fn a_paused_node_goes_on_with_old_bindings_until_a_minority_is_paused() {
    joiners_meet_a_node_that_was_paused(PartitionHandling::PauseMinority).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes with three broker nodes: by hand"]
async fn a_paused_node_goes_on_with_old_bindings_until_partitions_are_healed() {
    joiners_meet_a_node_that_was_paused(PartitionHandling::Autoheal).await;
}

/// Each node in turn, that with the leaders of the queues too. It comes back under its name with an
/// empty disk.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes with three broker nodes: by hand"]
async fn a_node_that_lost_its_disk_joins_again() {
    let broker = Broker::of_three_with(nodes(PartitionHandling::PauseMinority));
    let mut cluster = Cluster::start(Setup::on(broker).coordinators(2)).await;
    let mut load = Load::of_clients(CLIENTS, &cluster).await;
    for number in 0..3 {
        let by = (number + 1) % 3;
        cluster.broker.node(number).lose();
        load.flows_within(RECOVERY_LIMIT).await;
        cluster.broker.forget(number, by);
        cluster.broker.node(number).start();
        cluster.broker.node(number).wait_until_up();
        cluster.broker.join(number, by);
        load.flows_within(RECOVERY_LIMIT).await;
        cluster.broker.grow(number);
        wait_for_members(&cluster, number).await;
        load.flows_within(RECOVERY_LIMIT).await;
    }
    cluster.broker.nodes().iter().for_each(is_whole);
    finish(load, &mut cluster).await;
}

fn is_whole(node: &BrokerNode) {
    assert_eq!(node.running_nodes(), Ok(3), "{}", node.name());
}

/// Waits until another node may be lost: every queue has three members that vote.
async fn wait_for_members(cluster: &Cluster, number: usize) {
    for name in ["c1", "c2", "c3"] {
        let queue = Cluster::queue(name);
        let node = cluster.broker.node(number);
        wait::until(&format!("three members of {queue}"), async || match cluster
            .vhost
            .voters(node, &queue)?
        {
            3 => Ok(()),
            members => Err(members.to_string()),
        })
        .await;
    }
}
