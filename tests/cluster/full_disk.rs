//! A counter whose disk is full, in a cluster whose others have room.
//!
//! Invariant: it gives back what it can't keep, answers, and has everything once it has room;
//! nobody waits for it.

use std::os::unix::fs::symlink;

use reqwest::StatusCode;
use serde_json::Value;

use crate::cluster::{Cluster, Setup};
use crate::node::{Answer, items};
use crate::small_disk::SmallDisk;
use crate::wait;

/// Items of one post.
const POST_ITEMS: u64 = 10_000;

/// What `c1` says is wrong with it.
async fn problem_of_c1(cluster: &mut Cluster) -> Result<Option<String>, String> {
    let counters = cluster.counters(0).await?;
    let c1 = counters.get("c1").ok_or("it is not listed")?;
    Ok(c1["problem"].as_str().map(str::to_owned))
}

/// Posts new items, and adds them to what was posted.
async fn post(cluster: &mut Cluster, posted: &mut u64) {
    cluster
        .post_surely(0, &items("full", *posted, POST_ITEMS))
        .await;
    *posted += POST_ITEMS;
}

/// Posts until `c1` says that something is wrong with it, and gives what it says.
async fn post_until_c1_has_a_problem(cluster: &mut Cluster, posted: &mut u64) -> String {
    loop {
        post(cluster, posted).await;
        if let Some(problem) = problem_of_c1(cluster).await.expect("listed") {
            return problem;
        }
        assert!(*posted < 3_000_000, "the disk is larger than it should be");
    }
}

/// Waits until `c1` consumes no more and its queue has what it gave back.
async fn c1_gives_back(cluster: &Cluster) {
    let queue = Cluster::queue("c1");
    wait::until("deliveries that are back in the queue", async || {
        let node = cluster.broker.node(0);
        let consumers = cluster.vhost.consumers(node, &queue)?;
        let ready = cluster.vhost.ready(node, &queue)?;
        match consumers == 0 && ready >= 3 {
            true => Ok(()),
            false => Err(format!("{consumers} consumers, {ready} messages")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_with_a_full_disk_gives_back_and_consumes_again_by_itself() {
    let Some(disk) = SmallDisk::mount(16) else {
        return;
    };
    let mut cluster = Cluster::prepare(Setup::new());
    let folder = disk.path().join("data");
    std::fs::create_dir(&folder).expect("made");
    symlink(&folder, cluster.data_dir("c1")).expect("linked");
    cluster.start_coordinators();
    cluster.start_counters();
    cluster.wait_until_complete().await;
    disk.fill();
    let mut posted = 0;
    let problem = post_until_c1_has_a_problem(&mut cluster, &mut posted).await;
    assert!(problem.contains("no room"), "{problem}");
    let held = cluster.counters(0).await.expect("listed")["c1"]["items"].clone();

    // The others carry on, and so do posts and reads.
    for _ in 0..3 {
        post(&mut cluster, &mut posted).await;
    }
    cluster.shows(0, "full", posted, "").await;
    cluster.shows(0, "full", posted, "consistency=strong").await;
    // Its deliveries are in its queue, and it is there all the same.
    c1_gives_back(&cluster).await;
    let ready = format!("{}/readyz", cluster.counter("c1").process.url());
    let ready = Answer::of(cluster.http.get(ready)).await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(ready.text.contains("no room"), "{}", ready.text);
    let counters = cluster.counters(0).await.expect("listed");
    assert_eq!(counters["c1"]["items"], held, "it answers with what it has");
    assert_eq!(cluster.get(0, "/readyz").await.status, 200);

    disk.free();
    cluster.counter_holds("c1", posted).await;
    wait::until("a counter without a problem", async || {
        problem_of_c1(&mut cluster).await?.map_or(Ok(()), Err)
    })
    .await;
    cluster.wait_for_state("c1", "complete").await;
    let counters = cluster.counters(0).await.expect("listed");
    assert_eq!(counters["c1"]["reason"], Value::Null, "nothing was lost");
    assert_eq!(counters["c1"]["snapshots"], 0, "it all came by its queue");
    cluster.stop_and_verify(1, posted);
}
