//! What an operator signs as lost, and what happens between the plan and the signature.
//!
//! Invariant: no answer is exact that misses an acknowledged item, until the operator has signed
//! that it is lost.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Setup};
use crate::node::{Answer, items};
use crate::wait;

const NAMES: [&str; 3] = ["c1", "c2", "c3"];

/// Between two looks at a plan, each of which takes a barrier.
const PAUSE: Duration = Duration::from_secs(1);

/// Every counter has applied what is in its queue, and loses its disk.
async fn lose_all_disks(cluster: &mut Cluster, items: u64) {
    for name in NAMES {
        cluster.counter_holds(name, items).await;
        cluster.counter(name).process.terminate();
        cluster.destroy_disk(name);
    }
    for name in NAMES {
        cluster.counter(name).process.restart();
    }
    for name in NAMES {
        cluster.wait_for_state(name, "incomplete").await;
    }
}

/// What the first coordinator's desk for losses answers: to a request, or with its plan.
async fn desk(cluster: &mut Cluster, request: Option<&Value>) -> Answer {
    let url = cluster.coordinator(0).process.url();
    let url = format!("{url}/internal/v1/loss");
    let sent = match request {
        Some(request) => cluster.http.post(url).json(request),
        None => cluster.http.get(url),
    };
    let secret = std::fs::read_to_string(cluster.secret()).expect("read");
    Answer::of(sent.bearer_auth(secret.trim())).await
}

/// What was signed waits in the queue of a counter whose disk is lost after the plan was made.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_loses_its_disk_after_the_plan_is_not_complete_by_it() {
    let mut cluster = Cluster::start(Setup::new()).await;
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    lose_all_disks(&mut cluster, 10).await;
    let plan = desk(&mut cluster, None).await;
    assert_eq!(plan.status, 200, "{}", plan.text);
    assert_eq!(plan.json["incomplete"], json!(NAMES), "{}", plan.text);
    let loss = &plan.json["loss_ids"]["c1"];
    assert!(loss.is_string(), "{}", plan.text);

    cluster.counter("c1").process.kill();
    // The others are not named, so that there is nobody from whom it could take a snapshot.
    let request = json!({
        "missing": plan.json["missing"], "complete": true, "loss_ids": {"c1": loss},
    });
    let receipt = desk(&mut cluster, Some(&request)).await;
    assert_eq!(receipt.status, 200, "{}", receipt.text);
    assert_eq!(receipt.json["not_heard"], json!(["c1"]), "{}", receipt.text);
    cluster.destroy_disk("c1");
    cluster.counter("c1").process.restart();
    wait::until("a counter that has applied the signature", async || {
        let counters = cluster.counters(0).await?;
        match counters["c1"]["position"]["epochs"].as_u64() {
            Some(1..) => Ok(()),
            _ => Err(format!("{counters:?}")),
        }
    })
    .await;
    cluster.wait_for_state("c1", "incomplete").await;
    cluster.shows_nothing_exactly("asd", 500).await;
    let log = cluster.counter("c1").process.log();
    assert!(
        log.contains("is for an earlier loss of this counter"),
        "{log}"
    );

    // The same once more is refused or says nothing new; a new plan is for the new loss.
    let _ = desk(&mut cluster, Some(&request)).await;
    cluster.wait_for_state("c1", "incomplete").await;
    let signed = cluster.accept_loss_at(0);
    assert!(
        signed.stdout.contains("Complete: c1, c2, c3."),
        "{}",
        signed.stdout
    );
    assert_eq!(cluster.exact_count(0, "asd", "").await, 0);
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    assert_eq!(
        cluster.exact_count(0, "asd", "consistency=strong").await,
        10
    );
}

/// One coordinator can't know whether the last batch of another, which is there, was acknowledged:
/// that one can.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_batch_of_another_coordinator_is_signed_for_at_that_one() {
    let mut cluster = Cluster::start(Setup::new().coordinators(2)).await;
    cluster.post_surely(1, &items("asd", 0, 10)).await;
    let strong = "consistency=strong";
    assert_eq!(cluster.exact_count(0, "asd", strong).await, 10);
    lose_all_disks(&mut cluster, 10).await;

    let signed = cluster.accept_loss_at(0);
    let there = format!(
        "its coordinator at {} is running",
        cluster.coordinator(1).process.url()
    );
    assert!(signed.stderr.contains(&there), "{}", signed.stderr);
    assert!(
        signed.stdout.contains("Complete: c1, c2, c3."),
        "{}",
        signed.stdout
    );
    cluster.shows_nothing_exactly("asd", 500).await;
    let signed = cluster.accept_loss_at(1);
    assert!(
        signed.stdout.contains("Batches 1-1 of epoch"),
        "{}",
        signed.stdout
    );
    assert_eq!(cluster.exact_count(0, "asd", "").await, 0);
    assert_eq!(cluster.exact_count(1, "asd", "").await, 0);
}

/// The same when that one is gone: the batch is lost once it has been silent for long, and not
/// before.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_batch_of_a_coordinator_that_is_gone_is_lost_after_a_while() {
    let mut cluster = Cluster::start(Setup::new().coordinators(2)).await;
    cluster.post_surely(1, &items("asd", 0, 10)).await;
    let strong = "consistency=strong";
    assert_eq!(cluster.exact_count(0, "asd", strong).await, 10);
    lose_all_disks(&mut cluster, 10).await;
    cluster.coordinator(1).process.kill();
    let plan = desk(&mut cluster, None).await;
    assert_eq!(plan.json["missing"], json!([]), "{}", plan.text);
    assert_eq!(plan.json["not_lost"][0]["sequence"], 1, "{}", plan.text);
    wait::until("a batch that is lost", async || {
        tokio::time::sleep(PAUSE).await;
        let plan = desk(&mut cluster, None).await;
        match (&plan.json["not_lost"], &plan.json["missing"][0]["last"]) {
            (Value::Array(none), Value::Number(_)) if none.is_empty() => Ok(()),
            _ => Err(plan.text),
        }
    })
    .await;
    cluster.accept_loss();
    assert_eq!(cluster.exact_count(0, "asd", "").await, 0);
}
