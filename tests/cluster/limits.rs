//! A broker with limits of its operator's, below what the service would use.
//!
//! Invariant: what a limit allows is done within it; what it does not is said by its name.

use std::sync::Arc;

use crate::broker::Broker;
use crate::cluster::{Cluster, Setup};
use crate::node::{Answer, items};
use crate::wait;

/// A post of more bytes than the broker takes in one message, and posts that have so many together.
#[tokio::test(flavor = "multi_thread")]
async fn posts_larger_than_a_message_may_be_are_counted_in_parts() {
    let broker = Broker::with_settings("max_message_size = 20000\n");
    let mut cluster = Cluster::start(Setup::on(broker)).await;
    // Twelve bytes an item.
    cluster.post_surely(0, &items("large", 0, 10_000)).await;
    cluster
        .shows(0, "large", 10_000, "consistency=strong")
        .await;
    let url = format!("{}/items", cluster.coordinator(0).process.url());
    let together = (0..20).map(|post| {
        let body = items("together", 1_000 * post, 1_000);
        Answer::of(cluster.http.post(&url).json(&body))
    });
    for answer in futures_util::future::join_all(together).await {
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    cluster
        .shows(0, "together", 20_000, "consistency=strong")
        .await;
    // And a counter that begins later takes all of it.
    cluster.counter("c1").process.kill();
    cluster
        .post_surely(0, &items("large", 10_000, 10_000))
        .await;
    cluster.counter("c1").process.restart();
    cluster.wait_until_complete().await;
    cluster
        .shows(0, "large", 20_000, "consistency=strong")
        .await;
    assert!(cluster.coordinator(0).process.runs());
    let log = cluster.coordinator(0).process.log();
    assert!(log.contains("log limits the batch size"), "{log}");
}

/// What `/readyz` of a coordinator, or of a counter, says until it says `part`.
async fn says(cluster: &mut Cluster, who: &str, part: &str) {
    let url = match who {
        "coordinator" => cluster.coordinator(0).process.url(),
        name => cluster.counter(name).process.url(),
    };
    let http = cluster.http.clone();
    wait::until("a node that says what it lacks", async || {
        let answer = Answer::try_of(http.get(format!("{url}/readyz"))).await;
        let answer = answer.map_err(|why| why.to_string())?;
        if !answer.text.contains(part) {
            return Err(answer.text);
        }
        answer.assert_problem(503, "not-ready");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_channels_are_said_by_the_settings_name() {
    let broker = Broker::with_settings("channel_max = 8\n");
    let mut cluster = Cluster::prepare(Setup::on(broker).counters(&["c1"]));
    cluster.start_coordinators();
    cluster.start_counters();
    let lacks = "channel_max is 8; it must be at least 16";
    for who in ["coordinator", "c1"] {
        says(&mut cluster, who, lacks).await;
    }
    let log = cluster.coordinator(0).process.log();
    assert!(log.contains(lacks) && !log.contains("NOT_FOUND"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_user_may_not_is_said_and_waited_for() {
    let mut cluster = Cluster::prepare(Setup::new().counters(&["c1"]));
    let broker = Arc::clone(&cluster.broker);
    let vhost = cluster.vhost.clone();
    vhost.restrict(broker.node(0), ["^other", ".*", ".*"]);
    cluster.start_coordinators();
    cluster.start_counters();
    for who in ["coordinator", "c1"] {
        says(&mut cluster, who, "ACCESS_REFUSED").await;
    }
    vhost.restrict(broker.node(0), [".*", ".*", ".*"]);
    cluster.wait_until_complete().await;
    cluster.post_surely(0, &items("a", 0, 10)).await;
    cluster.shows(0, "a", 10, "consistency=strong").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_queue_too_many_is_said_and_waited_for() {
    let mut cluster = Cluster::prepare(Setup::new().counters(&["c1"]));
    let broker = Arc::clone(&cluster.broker);
    let vhost = cluster.vhost.clone();
    vhost.limit_queues(broker.node(0), Some(2));
    cluster.start_coordinators();
    cluster.start_counters();
    says(&mut cluster, "coordinator", "(2) is reached").await;
    vhost.limit_queues(broker.node(0), None);
    cluster.wait_until_complete().await;
    cluster.post_surely(0, &items("a", 0, 10)).await;
    cluster.shows(0, "a", 10, "consistency=strong").await;
}
