//! Where queues are kept, and making one again: on a broker of one node. [`crate::founded_alone`]
//! has what needs three.
//!
//! Invariant: a queue that works is made again only on demand, and then nothing is lost that
//! another counter has.

use crate::broker::{Broker, PASSWORD, USER};
use crate::broker_cluster::Nodes;
use crate::cluster::{Cluster, Setup};
use crate::invariant_checker::Load;
use crate::node::{self, Answer, Ran, items};
use crate::wait;

const NAMES: [&str; 3] = ["c1", "c2", "c3"];

fn remake(cluster: &Cluster, name: &str, flags: &[&str]) -> Ran {
    let url = cluster.amqp_url();
    let args = ["remake-queue", "--name", name, "--amqp-url", &url];
    node::run(&[&args, flags].concat())
}

#[track_caller]
fn assert_refused(ran: &Ran, why: &str) {
    assert!(!ran.status.success(), "{}", ran.stdout);
    assert!(ran.stderr.contains(why), "{why} in {}", ran.stderr);
}

/// Waits until a counter was told of its loss, and has what the others have.
async fn has_caught_up(cluster: &mut Cluster, name: &str) {
    wait::until(&format!("{name} with a snapshot, complete"), async || {
        let counters = cluster.counters(0).await?;
        let counter = &counters[name];
        match counter["snapshots"].as_u64() {
            Some(1..) if counter["state"] == "complete" => Ok(()),
            _ => Err(counter.clone()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_works_is_made_again_only_on_demand() {
    let mut cluster = Cluster::prepare(Setup::new());
    assert_refused(
        &remake(&cluster, "c1", &["--yes"]),
        "no cluster was bootstrapped",
    );
    cluster.start_coordinators();
    cluster.start_counters();
    cluster.wait_until_complete().await;
    cluster.post_surely(0, &items("asd", 0, 10)).await;
    cluster.shows(0, "asd", 10, "").await;
    assert_refused(&remake(&cluster, "c1", &["--yes"]), "nothing is wrong");
    assert_refused(&remake(&cluster, "c9", &["--force"]), "never had a queue");
    // Nobody says yes.
    assert_refused(&remake(&cluster, "c1", &["--force"]), "Nothing was changed");
    let node = cluster.broker.node(0);
    assert_eq!(cluster.vhost.consumers(node, &Cluster::queue("c1")), Ok(1));

    let ran = remake(&cluster, "c1", &["--force", "--yes"]);
    assert!(ran.status.success(), "{}", ran.stderr);
    has_caught_up(&mut cluster, "c1").await;
    for name in ["c2", "c3"] {
        cluster.counter(name).process.kill();
    }
    cluster.shows(0, "asd", 10, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_that_are_made_again_under_load_lose_nothing() {
    let mut cluster = Cluster::start(Setup::new()).await;
    let mut load = Load::start(&cluster).await;
    for name in NAMES {
        let ran = remake(&cluster, name, &["--force", "--yes"]);
        assert!(ran.status.success(), "{}", ran.stderr);
        has_caught_up(&mut cluster, name).await;
        load.flows().await;
    }
    load.finish(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_management_api_tells_where_queues_are_kept() {
    let broker = Broker::of_one_that_grows(Nodes {
        management: true,
        ..Nodes::new()
    });
    let mut cluster = Cluster::prepare(Setup::on(broker));
    let port = cluster.broker.node(0).management_port();
    // The first does not answer.
    let urls =
        format!("http://{USER}:{PASSWORD}@127.0.0.1:1,http://{USER}:{PASSWORD}@127.0.0.1:{port}");
    cluster.start_coordinator_through(&[0], &["c1"], &["--management-url", &urls]);
    let wrong = format!("http://{USER}:wrong-{PASSWORD}@127.0.0.1:{port}");
    cluster.start_coordinator_through(&[0], &["c1"], &["--management-url", &wrong]);
    cluster.start_counter_through(&[0], "c1");
    cluster.wait_until_complete().await;
    let node = cluster.broker.node(0).name().to_owned();
    wait::until("the members of a queue", async || {
        let counters = cluster.counters(0).await?;
        let counter = &counters["c1"];
        let members = &counter["queue_members"];
        let known = members == &serde_json::json!([node]) && counter["broker_nodes"] == 1;
        match known && counter.get("warning").is_none() {
            true => Ok(()),
            false => Err(counter.clone()),
        }
    })
    .await;
    let url = cluster.coordinator(0).process.url();
    let metrics = Answer::of(cluster.http.get(format!("{url}/metrics"))).await;
    for line in [
        r#"headcount_counter_queue_members{counter="c1"} 1"#,
        r#"headcount_counter_queue_members_online{counter="c1"} 1"#,
        r#"headcount_counter_queue_warning{counter="c1"} 0"#,
        "headcount_broker_nodes 1",
    ] {
        assert!(metrics.text.contains(line), "{line} in\n{}", metrics.text);
    }
    wait::until("a log that tells of the refused password", async || {
        let log = cluster.coordinator(1).process.log();
        match log.contains("refuses the user") {
            true => Ok(()),
            false => Err("not told"),
        }
    })
    .await;
    let counters = cluster.counters(1).await.expect("answered");
    assert!(
        counters["c1"].get("queue_members").is_none(),
        "{counters:?}"
    );
    cluster.assert_no_password();
}
