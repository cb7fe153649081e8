//! What an operator does by hand: a batch that cannot be decoded, a local folder that joins a
//! cluster, a first look at `cargo xtask cluster`.
//!
//! Invariant: nothing that was acknowledged is missing afterwards, unless the operator was told so
//! and agreed.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::amqp::Client;
use crate::broker::{PASSWORD, USER};
use crate::cluster::{Cluster, Setup};
use crate::node::{self, Answer, Node, items};
use crate::readme;
use crate::reaper;
use crate::wait::{self, PATIENCE};

/// A batch of a format that only a later release has.
const POISON: &[u8] = b"HCB\x63 from the future";

fn publish(cluster: &Cluster, exchange: &str, queue: &str) {
    let port = cluster.broker.node(0).port();
    let client = Client::connect(port, cluster.vhost.name(), USER, PASSWORD);
    let mut client = client.expect("connected");
    client.publish(exchange, queue, POISON).expect("confirmed");
}

/// Waits until the counter stands at what it can't read: it runs and answers, takes nothing more,
/// and says why.
async fn stands_at_poison(cluster: &mut Cluster, name: &str) {
    let what = format!("counter {name} that stands at its poison");
    let problem = wait::until(&what, async || {
        let counters = cluster.counters(0).await?;
        match counters.get(name).map(|counter| &counter["problem"]) {
            Some(Value::String(problem)) => Ok(problem.clone()),
            _ => Err(format!("{counters:?}")),
        }
    })
    .await;
    for part in ["cannot be decoded", "skip-poison", &Cluster::queue(name)] {
        assert!(problem.contains(part), "{part} in {problem}");
    }
    let url = cluster.counter(name).process.url();
    let ready = Answer::of(cluster.http.get(format!("{url}/readyz"))).await;
    assert_eq!(ready.status, 503, "{}", ready.text);
    assert!(ready.text.contains("skip-poison"), "{}", ready.text);
    let (queue, node) = (Cluster::queue(name), cluster.broker.node(0));
    wait::until("a queue that has it back, and no consumer", async || {
        let vhost = &cluster.vhost;
        match (vhost.consumers(node, &queue), vhost.ready(node, &queue)) {
            (Ok(0), Ok(1..)) => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
    let process = &mut cluster.counter(name).process;
    assert_eq!(process.ended(), None, "it goes on");
    assert!(process.log().contains("cannot be decoded"));
}

/// Skips it: not while the counter runs, but once it is stopped.
fn skip(cluster: &mut Cluster, name: &str) {
    let url = cluster.amqp_url();
    let data_dir = cluster.counter(name).data_dir.display().to_string();
    let args = [
        "skip-poison",
        "--name",
        name,
        "--data-dir",
        &data_dir,
        "--amqp-url",
        &url,
        "--yes",
    ];
    let refused = node::run(&args);
    assert!(!refused.status.success(), "it runs: {}", refused.stdout);
    let status = cluster.counter(name).process.terminate();
    assert_eq!(status.code(), Some(0), "a clean stop");
    let ran = cluster.operate(&args);
    assert!(ran.stdout.contains("Skipped"), "{}", ran.stdout);
    cluster.counter(name).process.restart();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_cannot_read_a_batch_stands_until_it_is_skipped() {
    let mut cluster = Cluster::start(Setup::new()).await;
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    publish(&cluster, "", &Cluster::queue("c1"));
    stands_at_poison(&mut cluster, "c1").await;
    cluster.post_surely(0, &items("asd", 10, 10)).await;
    assert_eq!(cluster.exact_count(0, "asd", "").await, 20);
    let strong = "consistency=strong";
    assert_eq!(cluster.exact_count(0, "asd", strong).await, 20);

    cluster.counter("c1").process.kill();
    cluster.counter("c1").process.restart();
    stands_at_poison(&mut cluster, "c1").await;
    // Alone it answers with what it has, which does not cover what was acknowledged.
    for name in ["c2", "c3"] {
        cluster.counter(name).process.pause();
    }
    let alone = cluster.get(0, "/items/asd/count?timeout_ms=1000").await;
    assert_eq!(alone.json["exact"], false, "{}", alone.text);
    assert_eq!(alone.json["count"], 10, "{}", alone.text);
    let path = "/items/asd/count?consistency=strong&timeout_ms=1000";
    let alone = cluster.get(0, path).await;
    assert_eq!(alone.status, 503, "{}", alone.text);
    for name in ["c2", "c3"] {
        cluster.counter(name).process.resume();
    }

    skip(&mut cluster, "c1");
    cluster.wait_for_state("c1", "complete").await;
    for name in ["c2", "c3"] {
        cluster.counter(name).process.kill();
    }
    assert_eq!(cluster.exact_count(0, "asd", "").await, 20);
    let counters = cluster.counters(0).await.expect("answered");
    assert!(counters["c1"].get("problem").is_none(), "{counters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_nobody_can_read_is_given_up_by_the_operator_alone() {
    let mut cluster = Cluster::start(Setup::new()).await;
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    assert_eq!(cluster.exact_count(0, "asd", "").await, 10);
    publish(&cluster, "headcount.items.0", "");
    for name in ["c1", "c2", "c3"] {
        stands_at_poison(&mut cluster, name).await;
    }
    // What was acknowledged before is counted by all of them, and reads that ask for no more are
    // exact.
    assert_eq!(cluster.exact_count(0, "asd", "").await, 10);
    let ready = cluster.get(0, "/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.text);
    cluster.post_surely(0, &items("asd", 10, 10)).await;
    let answer = cluster.get(0, "/items/asd/count?timeout_ms=500").await;
    assert_eq!(answer.json["exact"], false, "{}", answer.text);
    for name in ["c1", "c2", "c3"] {
        skip(&mut cluster, name);
    }
    for name in ["c1", "c2", "c3"] {
        cluster.wait_for_state(name, "incomplete").await;
    }
    let answer = cluster.get(0, "/items/asd/count?timeout_ms=500").await;
    assert_ne!(answer.json["exact"], true, "{}", answer.text);
    cluster.accept_loss();
    assert_eq!(cluster.exact_count(0, "asd", "").await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_folder_moves_behind_the_broker_with_every_count() {
    let mut cluster = Cluster::prepare(Setup::new());
    let data_dir = cluster.data_dir("c1");
    let mut local = Node::start_in(&data_dir, &[]);
    let posted = local.post(&items("asd", 0, 10)).await;
    let token = posted.json["token"].as_str().expect("a token").to_owned();
    assert!(local.terminate().success());

    let adopting = cluster.start_counter("c1", &["--adopt"]).process.url();
    assert!(adopting.starts_with("http://"));
    cluster.start_coordinators();
    cluster.wait_for_state("c1", "complete").await;
    for name in ["c2", "c3"] {
        cluster.start_counter(name, &[]);
    }
    cluster.wait_until_complete().await;
    let after = format!("after={token}");
    assert_eq!(cluster.exact_count(0, "asd", &after).await, 10);
    cluster.post_surely(0, &items("asd", 5, 10)).await;
    assert_eq!(
        cluster.exact_count(0, "asd", "consistency=strong").await,
        15
    );
    cluster.counter("c1").process.kill();
    assert_eq!(cluster.exact_count(0, "asd", &after).await, 15);
    cluster.counter("c1").process.restart();
    cluster.wait_until_complete().await;
    for name in ["c1", "c2", "c3"] {
        cluster.counter_holds(name, 15).await;
    }
    cluster.stop_and_verify(1, 15);

    let refused = node::run(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        &data_dir.display().to_string(),
    ]);
    assert!(!refused.status.success(), "it belongs to a cluster now");
}

/// The chore's own cluster, with the commands of the README as they are written there, but for the
/// port.
#[tokio::test(flavor = "multi_thread")]
async fn the_curls_of_the_readme_work_against_cargo_xtask_cluster() {
    let port = reaper::free_port();
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["xtask", "cluster", "--ephemeral", "--listen"])
        .arg(format!("127.0.0.1:{port}"))
        .args(["--program", env!("CARGO_BIN_EXE_headcount")])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut child = reaper::spawn(&mut command);
    let url = format!("http://127.0.0.1:{port}");
    wait::until("a cluster that is ready", async || {
        if let Some(status) = child.try_wait().expect("waited") {
            panic!("it ended with {status}");
        }
        let ready = reqwest::get(format!("{url}/readyz")).await;
        let ready = ready.and_then(reqwest::Response::error_for_status);
        ready.map(drop).map_err(|why| why.to_string())
    })
    .await;
    readme::assert_answers(&url, false);
    reaper::signal(&child, "-INT");
    let status = wait::until_blocking("its end", PATIENCE, || {
        child.try_wait().expect("waited").ok_or("it runs")
    });
    assert!(status.success(), "{status}");
    reaper::ended(child.id());
}
