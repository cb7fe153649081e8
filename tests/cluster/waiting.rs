//! Reads that wait in a cluster: what they leave to others, and that they end with their clients
//! everywhere.
//!
//! Invariant: whoever waits here waits for nothing that comes; every test ends long before their
//! time is up.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::{Cluster, Setup};
use crate::kit::waiting::{TIMEOUT, reset, send_all, waiting};
use crate::node::items;
use crate::wait;

/// More reads than may wait at one counter at once.
const READS: usize = 160;

/// A read that need not wait is answered by then, even on a machine that is busy.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// How many queries wait at the coordinator and at each counter.
async fn all_waiting(cluster: &mut Cluster) -> Vec<usize> {
    let mut urls = vec![cluster.coordinator(0).process.url()];
    for name in cluster.running() {
        urls.push(cluster.counter(&name).process.url());
    }
    let mut all = Vec::new();
    for url in urls {
        let answer = cluster.http.get(format!("{url}/metrics")).send().await;
        let text = answer.expect("an answer").text().await;
        all.push(waiting(&text.expect("text")));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_wait_keep_no_other_from_its_answer_and_end_with_their_clients() {
    let mut cluster = Cluster::start(Setup::new()).await;
    let posted = cluster.post_surely(0, &items("a", 1, 3)).await;
    let own = posted.json["token"].as_str().expect("a token").to_owned();
    assert_eq!(cluster.exact_count(0, "a", "").await, 3);

    let begun = Instant::now();
    let url = cluster.coordinator(0).process.url();
    let sent = send_all(&url, READS);
    // As many wait at the nearest counter as may, and some more for a place among them.
    wait::until("all wait", async || {
        let waiting = all_waiting(&mut cluster).await;
        match waiting.iter().max() {
            Some(&most) if most >= READS => Ok(()),
            _ => Err(format!("{waiting:?}")),
        }
    })
    .await;
    let after = format!("after={own}");
    for options in ["consistency=eventual", "", "consistency=strong", &after] {
        let asked = Instant::now();
        let count = cluster.get(0, &format!("/items/a/count?{options}")).await;
        assert_eq!(count.json["count"], json!(3), "{}", count.text);
        let item = cluster.get(0, &format!("/items/a/ids/1?{options}")).await;
        assert_eq!(item.json["counted"], json!(true), "{}", item.text);
        let page = cluster.get(0, &format!("/tenants?{options}")).await;
        assert_eq!(page.json["tenants"][0]["count"], json!(3), "{}", page.text);
        let exact = json!(options != "consistency=eventual");
        for answer in [count, item, page] {
            assert_eq!(answer.json["exact"], exact, "{}", answer.text);
        }
        assert!(asked.elapsed() < READ_LIMIT, "{options}");
    }
    assert!(all_waiting(&mut cluster).await.iter().all(|&wait| wait > 0));

    // What was posted just now may be read at once: its commit is not behind theirs.
    for id in 10..20 {
        cluster.post_surely(0, &items("b", id, 1)).await;
        for path in [format!("/items/b/ids/{id}"), "/tenants?prefix=b".to_owned()] {
            let read = cluster.get(0, &path).await;
            assert_eq!(read.json["exact"], json!(true), "{}", read.text);
        }
    }
    sent.into_iter().for_each(reset);
    wait::until("an end of all waiting", async || {
        let waiting = all_waiting(&mut cluster).await;
        match waiting.iter().sum::<usize>() {
            0 => Ok(()),
            _ => Err(format!("{waiting:?}")),
        }
    })
    .await;
    assert!(begun.elapsed() < TIMEOUT, "before their time is up");
}
