//! Queues that were founded on a broker of one node, which others joined later: they have one
//! member, and are beyond repair when its disk is lost.
//!
//! Invariant: the warning comes before the loss, the command repairs after it, and no answer is
//! exact that misses an acknowledged item.
//!
//! By hand, as the hardships of [`crate::three_nodes`].

use serde_json::json;

use crate::broker::{Broker, PASSWORD, USER};
use crate::broker_cluster::Nodes;
use crate::cluster::{Cluster, Setup};
use crate::node::{self, items};
use crate::wait;

const NAMES: [&str; 3] = ["c1", "c2", "c3"];

/// A broker of one node that can get two more, and a cluster around it whose coordinator asks the
/// management API.
async fn founded_on_one_node() -> Cluster {
    let broker = Broker::of_one_that_grows(Nodes {
        management: true,
        ..Nodes::new()
    });
    let mut cluster = Cluster::prepare(Setup::on(broker));
    let urls: Vec<String> = cluster
        .broker
        .nodes()
        .iter()
        .map(|node| {
            format!(
                "http://{USER}:{PASSWORD}@127.0.0.1:{}",
                node.management_port()
            )
        })
        .collect();
    let flags = ["--management-url", &urls.join(",")];
    // Where an address is silent, nothing is founded.
    cluster.start_coordinator_through(&[0], &NAMES, &flags);
    for name in NAMES {
        cluster.start_counter_through(&[0], name);
    }
    cluster.wait_until_complete().await;
    cluster
}

/// Makes a broker of three nodes of that, and gives all nodes of the cluster their addresses.
async fn join_two(cluster: &mut Cluster) {
    for number in 1..3 {
        cluster.broker.node(number).start();
        cluster.broker.node(number).wait_until_up();
        cluster.broker.join(number, 0);
    }
    for name in NAMES {
        cluster.reach_through(name, &[0, 1, 2]);
    }
    cluster.reach_through("coordinator", &[0, 1, 2]);
    cluster.wait_until_complete().await;
}

/// Waits until `/counters` tells so much of a counter's queue: its members, the broker's nodes, and
/// parts of the warning; none for no warning.
async fn told(cluster: &mut Cluster, name: &str, members: usize, nodes: u64, warning: &[&str]) {
    let what =
        format!("{members} members of {name} on {nodes} nodes, with a warning of {warning:?}");
    wait::until(&what, async || {
        let counters = cluster.counters(0).await?;
        let counter = &counters[name];
        let seen = counter["queue_members"].as_array().map(Vec::len);
        let text = counter["warning"].as_str().unwrap_or_default();
        let warned = match warning {
            [] => counter.get("warning").is_none(),
            parts => parts.iter().all(|part| text.contains(part)),
        };
        match seen == Some(members) && counter["broker_nodes"] == json!(nodes) && warned {
            true => Ok(()),
            false => Err(counter.clone()),
        }
    })
    .await;
}

/// Runs the commands that the warning of a counter ends with, as they are written there, until it
/// has no warning: while a queue gets one member, RabbitMQ does not give it another.
async fn grow_as_told(cluster: &mut Cluster, name: &str) {
    let what = format!("three members of each queue of {name}, and no warning");
    wait::until(&what, async || {
        let counters = cluster.counters(0).await?;
        let counter = &counters[name];
        let Some(warning) = counter["warning"].as_str() else {
            return Ok(());
        };
        if let Some((_, commands)) = warning.split_once("Run: ") {
            let command = commands.split("; ").next().unwrap_or_default();
            let words: Vec<&str> = command
                .split_whitespace()
                .map(|word| word.trim_matches('\''))
                .collect();
            cluster.broker.node(1).run(words[0], &words[1..]);
        }
        Err(warning.to_owned())
    })
    .await;
}

/// Waits until a log says how a queue is made again.
async fn says_what_to_do(cluster: &mut Cluster, who: &str, counter: &str) {
    let command = format!("headcount remake-queue --name {counter}");
    wait::until(&format!("{who} that tells of {command}"), async || {
        let log = match who {
            "coordinator" => cluster.coordinator(0).process.log(),
            name => cluster.counter(name).process.log(),
        };
        let told = log
            .lines()
            .any(|line| line.contains("\"ERROR\"") && line.contains(&command));
        if told { Ok(()) } else { Err("not told") }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes with three broker nodes: by hand"]
async fn queues_that_are_grown_as_told_survive_the_first_node() {
    let mut cluster = founded_on_one_node().await;
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    for name in NAMES {
        told(&mut cluster, name, 1, 1, &[]).await;
    }
    join_two(&mut cluster).await;
    for name in NAMES {
        told(
            &mut cluster,
            name,
            1,
            3,
            &["1 of 3 members", "rabbitmq-queues grow"],
        )
        .await;
        grow_as_told(&mut cluster, name).await;
        told(&mut cluster, name, 3, 3, &[]).await;
    }
    for name in NAMES {
        cluster.counter(name).process.terminate();
    }
    // Only the queues have these.
    cluster.post_surely(0, &items("asd", 10, 10)).await;
    cluster.broker.node(0).lose();
    for name in NAMES {
        cluster.counter(name).process.restart();
    }
    cluster.shows(0, "asd", 20, "consistency=strong").await;
    for name in NAMES {
        told(
            &mut cluster,
            name,
            3,
            3,
            &["2 of 3 members", "forget_cluster_node"],
        )
        .await;
        cluster.counter_holds(name, 20).await;
    }
    cluster.stop_and_verify(1, 20);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes with three broker nodes: by hand"]
async fn queues_whose_only_node_is_lost_are_made_again_and_nothing_is_exact_before_it_is_accepted()
{
    let mut cluster = founded_on_one_node().await;
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    join_two(&mut cluster).await;
    for name in NAMES {
        told(&mut cluster, name, 1, 3, &["rabbitmq-queues grow"]).await;
        cluster.counter_holds(name, 10).await;
        cluster.counter(name).process.terminate();
    }
    // Only the queues have these.
    cluster.post_surely(0, &items("asd", 10, 10)).await;
    cluster.broker.node(0).lose();
    for name in NAMES {
        cluster.counter(name).process.restart();
    }
    let url = format!("{}/items", cluster.coordinator(0).process.url());
    let post = cluster.http.post(&url).json(&items("asd", 20, 1)).send();
    let refused = post.await.expect("an answer");
    assert_eq!(refused.status(), 503, "no queue takes it");
    for name in NAMES {
        told(
            &mut cluster,
            name,
            1,
            3,
            &["no majority", "headcount remake-queue"],
        )
        .await;
        says_what_to_do(&mut cluster, name, name).await;
        says_what_to_do(&mut cluster, "coordinator", name).await;
    }
    cluster.shows_nothing_exactly("asd", 500).await;

    for name in NAMES {
        remake(&cluster, name);
    }
    goes_on_once_the_loss_is_accepted(&mut cluster).await;
    for name in NAMES {
        cluster.counter_holds(name, 25).await;
    }
    cluster.stop_and_verify(1, 25);
}

/// No counter is complete, and no answer exact, before the loss is accepted. Then 25 items are
/// counted: 10 from before, and 20 that are posted now, 5 of them again.
async fn goes_on_once_the_loss_is_accepted(cluster: &mut Cluster) {
    for name in NAMES {
        cluster.wait_for_state(name, "incomplete").await;
    }
    cluster.shows_nothing_exactly("asd", 500).await;
    cluster.accept_loss();
    cluster.wait_until_complete().await;
    cluster.post_surely(0, &items("asd", 5, 20)).await;
    cluster.shows(0, "asd", 25, "consistency=strong").await;
}

/// By way of a node that runs.
fn remake(cluster: &Cluster, name: &str) {
    let url = cluster.vhost.url(cluster.broker.node(1).port());
    let args = ["remake-queue", "--name", name, "--amqp-url", &url, "--yes"];
    let ran = node::run(&args);
    eprintln!("{}{}", ran.stdout, ran.stderr);
    assert!(ran.status.success(), "{args:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes with three broker nodes: by hand"]
async fn a_queue_of_two_members_that_lost_one_is_made_again() {
    let mut cluster = founded_on_one_node().await;
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    join_two(&mut cluster).await;
    cluster.broker.grow(1);
    for name in NAMES {
        told(&mut cluster, name, 2, 3, &["2 of 3 members"]).await;
    }
    cluster.broker.node(0).lose();
    for name in NAMES {
        told(
            &mut cluster,
            name,
            2,
            3,
            &["no majority", "headcount remake-queue"],
        )
        .await;
        remake(&cluster, name);
    }
    goes_on_once_the_loss_is_accepted(&mut cluster).await;
    cluster.stop_and_verify(1, 25);
}
