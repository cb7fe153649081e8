//! Two clusters on one virtual host, and two processes of one name.
//!
//! Invariant: neither takes anything from the other, and what started later ends and says why.

use crate::cluster::{Cluster, Member, Setup};
use crate::node::items;

/// It ends by itself, with an error that says `why`.
fn ends(member: &mut Member, why: &str) {
    let status = member.process.wait_for_end();
    let log = member.process.log_tail();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains(why), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_with_prefixes_of_their_own_share_a_virtual_host() {
    let mut one = Cluster::start(Setup::new()).await;
    let flags = ["--prefix", "other", "--cluster-id", "other"];
    let mut other = Cluster::start(Setup::beside(&one).flags(&flags)).await;
    one.post_surely(0, &items("asd", 0, 10)).await;
    other.post_surely(0, &items("asd", 0, 3)).await;
    one.shows(0, "asd", 10, "consistency=strong").await;
    other.shows(0, "asd", 3, "consistency=strong").await;
    let node = one.broker.node(0);
    assert!(one.vhost.has_queue(node, "other.items.0.c1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_cluster_under_the_same_prefix_is_refused() {
    let flags = ["--cluster-id", "one"];
    let mut one = Cluster::start(Setup::new().flags(&flags)).await;
    one.post_surely(0, &items("asd", 0, 10)).await;
    let flags = ["--cluster-id", "other"];
    let mut other = Cluster::prepare(Setup::beside(&one).flags(&flags));
    other.start_coordinators();
    other.start_counter("c9", &[]);
    ends(other.coordinator(0), "Two clusters would become one");
    ends(other.counter("c9"), "Two clusters would become one");
    one.shows(0, "asd", 10, "consistency=strong").await;
    let known = one.counters(0).await.expect("they are listed");
    assert!(!known.contains_key("c9"), "{known:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_other_counters_or_takes_another_s_name_is_refused() {
    let mut one = Cluster::start(Setup::new()).await;
    one.post_surely(0, &items("asd", 0, 10)).await;
    let mut other = Cluster::prepare(Setup::beside(&one).counters(&["d1"]));
    other.start_coordinators();
    ends(other.coordinator(0), "--counters");
    other.start_counter("c1", &[]);
    ends(other.counter("c1"), "another process runs as counter c1");
    assert!(one.counter("c1").process.runs());
    one.shows(0, "asd", 10, "consistency=strong").await;
}
