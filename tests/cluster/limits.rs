//! A broker with limits of its operator's, below what the service would use.
//!
//! Invariant: what a limit allows is done within it; what it does not is said by its name.

use crate::broker::Broker;
use crate::cluster::{Cluster, Setup};
use crate::node::{Answer, items};

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
    assert!(log.contains("the log takes no larger batches"), "{log}");
}
