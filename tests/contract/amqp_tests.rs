//! The log over RabbitMQ: what a counter is told at its start, and what becomes of lost queues.
//!
//! Invariant: what is lost is told of, and what is there comes; nothing is taken for whole that may
//! not be.

use std::sync::Arc;
use std::time::Duration;

use headcount::log::amqp::{
    Announcement, Poison, Presence, Role, SkipOutcome, depths, remove_counter, skip_poison,
};
use headcount::log::{
    AppendError, Delivered, Deliveries, Delivery, DeliveryError, Log, StoreStatus, wire,
};
use headcount::model::{Batch, BatchId, Partition};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use parking_lot::Mutex;

use crate::amqp::{Cluster, append, name, reports};
use crate::kit::wait;
use crate::log::{PATIENCE, batch};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_appended_before_any_counter_starts_reaches_all() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1", "c2"]);
    let appended = append(&log, 1, 1).await;
    for text in ["c1", "c2"] {
        let mut counter = cluster.counter(text);
        counter.begins().await;
        assert_eq!(counter.takes(1).await, [Arc::clone(&appended)]);
        counter.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_acknowledged_comes_again() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    let mut counter = cluster.counter("c1");
    counter.begins().await;
    append(&log, 1, 1).await;
    let first = counter.next().await.expect("it goes on").expect("batches");
    append(&log, 1, 2).await;
    let second = counter.next().await.expect("it goes on").expect("batches");
    assert_eq!(second.delivered, Delivered::Batches(vec![batch(1, 2)]));
    // Both were handed out: this covers the first alone.
    counter.deliveries.acknowledge(first.tag).await;
    let store = counter.stop().await;
    let mut again = cluster.counter_over("c1", store);
    assert_eq!(
        again.takes(1).await,
        [batch(1, 2)],
        "and nothing is said of a loss"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_lost_its_disk_is_told() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    let mut counter = cluster.counter("c1");
    counter.begins().await;
    append(&log, 1, 1).await;
    counter.takes(1).await;
    counter.stop().await;
    let mut empty = cluster.counter("c1");
    empty.is_told_of_loss("its store is empty").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_is_told_that_it_is_not_whole() {
    let cluster = Cluster::new();
    let (log, _presence) = cluster.coordinator_that_hears(&["c1"]);
    append(&log, 1, 1).await;
    assert!(!log.status().borrow().reached.contains(&name("c4")));
    let mut newcomer = cluster.counter("c4");
    newcomer.is_told_of_loss("does not exist").await;
    newcomer.consumes().await;
    reports(&log, |status| status.reached.contains(&name("c4"))).await;
    let appended = append(&log, 1, 2).await;
    assert_eq!(newcomer.takes(1).await, [appended]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_deleted_under_its_counter_is_noticed() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1", "c2"]);
    let mut counter = cluster.counter("c1");
    counter.begins().await;
    append(&log, 1, 1).await;
    counter.takes(1).await;
    cluster.delete_queue("c1").await;
    counter.is_told_of_loss("counter c1").await;
    counter.consumes().await;
    let appended = append(&log, 1, 2).await;
    assert_eq!(counter.takes(1).await, [appended]);
}

/// docs/testing/schedules.md, 21.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_a_coordinator_declared_again_is_told_of() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    append(&log, 1, 1).await;
    cluster.delete_queue("c1").await;
    reports(&log, |status| status.missing == [name("c1")]).await;
    drop(log);
    let log = cluster.coordinator(&["c1"]);
    let appended = append(&log, 2, 1).await;
    assert!(cluster.has_marker("lost.c1").await);
    let mut counter = cluster.counter("c1");
    counter.is_told_of_loss("declared again").await;
    assert_eq!(counter.takes(1).await, [appended]);
    counter.consumes().await;
    assert!(!cluster.has_marker("lost.c1").await);
    let store = counter.stop().await;
    let mut counter = cluster.counter_over("c1", store);
    counter.consumes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returned_message_is_declared_for_and_published_again() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    append(&log, 1, 1).await;
    cluster.delete_queue("c1").await;
    let appended = append(&log, 1, 2).await;
    assert!(cluster.has_marker("lost.c1").await);
    let mut counter = cluster.counter("c1");
    counter.is_told_of_loss("declared again").await;
    assert_eq!(counter.takes(1).await, [appended]);
}

/// docs/testing/schedules.md, 24.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_broker_is_noticed_by_full_and_empty_stores() {
    let cluster = Cluster::new();
    let _log = cluster.coordinator(&["c1", "c2"]);
    let full = StoreStatus {
        holds_position: true,
        complete: true,
        ..StoreStatus::default()
    };
    let mut counter = cluster.counter_over("c1", Arc::new(Mutex::new(full)));
    counter.is_told_of_loss("never consumed from").await;
    counter.consumes().await;
    assert!(cluster.has_marker("replaced").await);
    let mut empty = cluster.counter("c2");
    empty.is_told_of_loss("the broker was replaced").await;
}

/// docs/testing/schedules.md, 24, the other order: the empty one starts while the full one has not
/// consumed yet.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_store_looks_for_older_ones() {
    let cluster = Cluster::new();
    let full = StoreStatus {
        holds_position: true,
        complete: true,
        ..StoreStatus::default()
    };
    let mut counter = cluster.counter_over("c1", Arc::new(Mutex::new(full)));
    let mut empty = cluster.counter("c2");
    let _log = cluster.coordinator(&["c1", "c2"]);
    let (_, ()) = tokio::join!(counter.take(), empty.is_told_of_loss("counter c2 is empty"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_store_stays_whole() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1", "c2"]);
    let adopted = StoreStatus {
        holds_position: true,
        complete: true,
        adopted: true,
        ..StoreStatus::default()
    };
    let mut counter = cluster.counter_over("c1", Arc::new(Mutex::new(adopted)));
    counter.consumes().await;
    let appended = append(&log, 1, 1).await;
    assert_eq!(counter.takes(1).await, [appended]);
    let mut empty = cluster.counter("c2");
    empty.is_told_of_loss("the broker was replaced").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_store_comes_first_or_not_at_all() {
    let cluster = Cluster::new();
    let _log = cluster.coordinator(&["c1", "c2"]);
    let mut other = cluster.counter("c2");
    other.begins().await;
    other.consumes().await;
    let adopted = StoreStatus {
        holds_position: true,
        complete: true,
        adopted: true,
        ..StoreStatus::default()
    };
    let mut counter = cluster.counter_over("c1", Arc::new(Mutex::new(adopted)));
    let refused = counter.next().await;
    assert!(
        matches!(&refused, Err(DeliveryError::Refused(why)) if why.contains("first")),
        "{refused:?}"
    );
    assert!(!cluster.has_marker("replaced").await);
}

/// Its items would be added to the count of whichever tenant lies so many numbers further.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_another_partition_is_not_handed_over() {
    let cluster = Cluster::new();
    let _log = cluster.coordinator(&["c1"]);
    let mut counter = cluster.counter("c1");
    counter.begins().await;
    let theirs = batch(1, 1);
    let id = BatchId {
        partition: Partition(7),
        ..theirs.id()
    };
    let foreign = Batch::new(id, 0, theirs.tenants().to_vec());
    cluster.publish(&wire::encode(&foreign)).await;
    let refused = counter.next().await;
    let Err(DeliveryError::Undecodable { detail, .. }) = &refused else {
        panic!("{refused:?}");
    };
    assert!(detail.contains("partition 7"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_ends_the_consuming_and_stays() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    append(&log, 1, 1).await;
    cluster.publish(b"HCB\x63 from the future").await;
    let behind = append(&log, 1, 2).await;
    let mut counter = cluster.counter("c1");
    counter.begins().await;
    counter.takes(1).await;
    let stopped = counter.next().await;
    assert!(
        matches!(&stopped, Err(DeliveryError::Undecodable { detail, .. }) if detail.contains("99")),
        "{stopped:?}"
    );
    assert_eq!(counter.next().await, stopped, "asked again, the same");
    // It lives, and consumes no more, nor connects again.
    counter.deliveries.leave();
    assert_eq!(counter.next().await, Ok(None));
    let mut status = counter.deliveries.status();
    let ended = status.wait_for(|status| !status.connected && !status.consuming);
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    ended.expect("in time").expect("it says so before it ends");
    // What was acknowledged is gone; the junk and what lies behind it are back.
    let expected = Ok(vec![(name("c1"), Some(2))]);
    wait::until("two messages", async || {
        match depths(cluster.options.clone(), &[name("c1")]).await {
            known if known == expected => Ok(()),
            known => Err(known),
        }
    })
    .await;
    let store = Arc::clone(&counter.standing);
    let (asked, answers) = std::sync::mpsc::channel();
    let refuse = move |poison: &Poison| asked.send(poison.clone()).is_err();
    let left = skip_poison(cluster.options.clone(), &name("c1"), refuse).await;
    let poison = answers.recv().expect("asked");
    assert_eq!(left, Ok(SkipOutcome::Left(poison.clone())));
    let skipped = skip_poison(cluster.options.clone(), &name("c1"), |_| true).await;
    assert_eq!(skipped, Ok(SkipOutcome::Skipped(poison)));
    let again = skip_poison(cluster.options.clone(), &name("c1"), |_| true).await;
    assert_eq!(again, Ok(SkipOutcome::NothingToSkip));
    let mut counter = cluster.counter_over("c1", store);
    assert_eq!(counter.takes(1).await, [behind]);
}

/// docs/testing/schedules.md, 18.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_counter_stays_removed() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1", "c2"]);
    append(&log, 1, 1).await;
    let settings = || Announcement {
        role: Role::Coordinator,
        name: "k".to_owned(),
        named: vec!["c1".to_owned(), "c2".to_owned()],
        ..Announcement::default()
    };
    let presence = Presence::start(cluster.options.clone(), "k".to_owned(), Arc::new(settings));
    let refused = remove_counter(cluster.options.clone(), &name("c2")).await;
    assert!(
        refused
            .expect_err("named")
            .to_string()
            .contains("settings of k")
    );
    drop(presence);
    let removed = remove_counter(cluster.options.clone(), &name("c2")).await;
    assert_eq!(removed, Ok(1));
    append(&log, 1, 2).await;
    let mut counter = cluster.counter("c2");
    assert!(matches!(
        counter.next().await,
        Err(DeliveryError::Refused(_))
    ));
    let again = cluster.coordinator(&["c1", "c2"]);
    let status = reports(&again, |status| status.fatal.is_some()).await;
    assert!(status.fatal.is_some_and(|why| why.contains("c2")));
    let refused = tokio::time::timeout(PATIENCE, again.append(batch(2, 1))).await;
    assert!(matches!(refused, Ok(Err(AppendError::Refused(_)))));
    let known = depths(cluster.options.clone(), &[name("c1"), name("c2")]).await;
    // An attempt that comes back from the queue that is gone leaves a copy in the other one.
    let known = known.expect("a broker");
    let [(_, Some(2 | 3)), (_, None)] = known[..] else {
        panic!("{known:?}");
    };
    assert_eq!(cluster.generations("c2").await, None);
}

/// docs/testing/schedules.md, 18, while a coordinator that has looked already is about to declare.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_removed_while_a_coordinator_declares() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1", "c2"]);
    append(&log, 1, 1).await;
    let declaring = cluster.channel().await;
    let lock = format!("{}.founding-lock", cluster.options.prefix);
    let exclusive = QueueDeclareOptions::exclusive();
    let locked = declaring.queue_declare(lock.as_str().into(), exclusive, FieldTable::default());
    locked.await.expect("nobody else declares");
    let c2 = name("c2");
    let mut removing = std::pin::pin!(remove_counter(cluster.options.clone(), &c2));
    let early = tokio::time::timeout(Duration::from_secs(3), &mut removing).await;
    assert!(early.is_err(), "{early:?}");
    assert!(!cluster.has_marker("removed.c2").await);
    let unlocked = declaring.queue_delete(lock.into(), QueueDeleteOptions::default());
    unlocked.await.expect("unlocked");
    assert_eq!(removing.await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_knows_how_long_queues_are() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1", "c2"]);
    append(&log, 1, 1).await;
    append(&log, 1, 2).await;
    let expected = [(name("c1"), 2), (name("c2"), 2)];
    let status = reports(&log, |status| status.depths == expected).await;
    assert!(status.connected && !status.blocked && status.missing.is_empty());
}

/// docs/testing/schedules.md, 1: whoever comes second waits until the first is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_has_one_consumer_at_a_time() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    let mut first = cluster.counter("c1");
    first.begins().await;
    first.consumes().await;
    let store = Arc::clone(&first.standing);
    let mut second = cluster.counter_over("c1", store);
    second.consumes().await;
    append(&log, 1, 1).await;
    assert!(matches!(
        first.next().await,
        Ok(Some(Delivery {
            delivered: Delivered::Batches(_),
            ..
        }))
    ));
    second.stays_quiet(Duration::from_millis(200)).await;
    first.stop().await;
    assert_eq!(second.takes(1).await, [batch(1, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_appends_once_the_cluster_is_founded() {
    let cluster = Cluster::new();
    let barriers = cluster.barriers_of("c1");
    let append_early = {
        let barriers = barriers.clone();
        tokio::spawn(async move { append(&barriers, 9, 1).await })
    };
    let mut counter = cluster.counter("c1");
    counter.stays_quiet(Duration::from_millis(300)).await;
    assert!(!append_early.is_finished());
    let _log = cluster.coordinator(&["c1"]);
    counter.begins().await;
    assert_eq!(
        counter.takes(1).await,
        [append_early.await.expect("joined")]
    );
}
