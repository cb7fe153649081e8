//! What lies beside a counter's queue, so that an older copy of the broker or of a store does not
//! pass for the present one.
//!
//! Invariant: what does not go together is told as a loss, and a renewal that is broken off
//! anywhere is none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headcount::log::amqp::{AmqpLog, QueueType};
use headcount::log::{Delivered, Deliveries, Delivery, StoreStatus};
use headcount::model::KeptGeneration;
use lapin::options::{
    BasicGetOptions, BasicNackOptions, BasicPublishOptions, ExchangeDeleteOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use parking_lot::Mutex;

use crate::amqp::{Cluster, append};
use crate::counter::Counter;
use crate::kit::wait;
use crate::log::PATIENCE;

type Store = Arc<Mutex<StoreStatus>>;

/// Longer than a mismatch is looked at again.
const LOOKED: Duration = Duration::from_secs(4);

/// A counter that has taken a batch, is stopped, and has renewed its generation: its store.
async fn with_history(cluster: &Cluster, log: &AmqpLog) -> Store {
    let mut counter = cluster.counter("c1");
    counter.begins().await;
    append(log, 1, 1).await;
    counter.takes(1).await;
    renewed(cluster, &mut counter).await;
    counter.stop().await
}

/// Waits until nothing but the generation that the store remembers lies in the queue.
async fn renewed(cluster: &Cluster, counter: &mut Counter) {
    counter.consumes().await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let messages = messages(cluster).await;
        let kept = counter.standing.lock().generation;
        match (kept, &messages[..]) {
            (Some(kept), [only]) if kept.is_placed && holds(only, kept) => return,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
        counter.stays_quiet(Duration::from_millis(50)).await;
    }
}

fn holds(message: &[u8], kept: KeptGeneration) -> bool {
    let generation = kept.generation.0;
    message.windows(generation.len()).any(|it| it == generation)
}

/// What lies in `c1`'s generation queue. Nobody else looks meanwhile.
async fn messages(cluster: &Cluster) -> Vec<Vec<u8>> {
    let channel = locked(cluster).await;
    let queue = cluster.generation_queue("c1");
    let mut messages = Vec::new();
    loop {
        let options = BasicGetOptions { no_ack: false };
        let got = channel.basic_get(queue.as_str().into(), options).await;
        match got.expect("a queue") {
            Some(message) => messages.push(message.data.clone()),
            None => break,
        }
    }
    let all = BasicNackOptions {
        multiple: true,
        requeue: true,
    };
    if !messages.is_empty() {
        channel.basic_nack(0, all).await.expect("given back");
    }
    let unlocked = channel.queue_delete(lock(cluster).into(), QueueDeleteOptions::default());
    unlocked.await.expect("unlocked");
    messages
}

/// What keeps others from looking.
fn lock(cluster: &Cluster) -> String {
    format!("{}.generation-lock.c1", cluster.options.prefix)
}

/// A channel whose connection has the lock.
async fn locked(cluster: &Cluster) -> Channel {
    loop {
        let channel = cluster.channel().await;
        let exclusive = QueueDeclareOptions::exclusive();
        let lock = lock(cluster).into();
        let locked = channel.queue_declare(lock, exclusive, FieldTable::default());
        if locked.await.is_ok() {
            return channel;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// As an import of exported definitions leaves it: the queue, and nothing in it.
async fn forget_messages(cluster: &Cluster) {
    let queue = cluster.generation_queue("c1");
    let channel = cluster.channel().await;
    let purged = channel.queue_purge(queue.into(), QueuePurgeOptions::default());
    purged.await.expect("purged");
}

async fn put(cluster: &Cluster, message: &[u8]) {
    let channel = cluster.channel().await;
    let confirms = channel.confirm_select(Default::default());
    confirms.await.expect("confirms");
    let queue = cluster.generation_queue("c1");
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default().with_delivery_mode(2);
    let published = channel.basic_publish("".into(), queue.into(), options, message, properties);
    let published = published.await.expect("published");
    published.await.expect("confirmed");
}

fn copy(store: &Store) -> Store {
    Arc::new(Mutex::new(*store.lock()))
}

/// Starts over `store`, and is told of no loss.
async fn goes_on(cluster: &Cluster, log: &AmqpLog, store: &Store, sequence: u64) {
    let mut counter = cluster.counter_over("c1", Arc::clone(store));
    counter.consumes().await;
    let appended = append(log, 1, sequence).await;
    assert_eq!(counter.takes(1).await, [appended], "and no word of a loss");
    assert!(counter.standing.lock().complete);
    renewed(cluster, &mut counter).await;
    counter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_restored_from_definitions_is_noticed() {
    for queue_type in [QueueType::Quorum, QueueType::Classic] {
        restored_from_definitions(queue_type).await;
    }
}

async fn restored_from_definitions(queue_type: QueueType) {
    let mut cluster = Cluster::new();
    cluster.options.queue_type = queue_type;
    let log = cluster.coordinator(&["c1", "c2"]);
    let store = with_history(&cluster, &log).await;
    goes_on(&cluster, &log, &store, 2).await;
    forget_messages(&cluster).await;
    let mut counter = cluster.counter_over("c1", store);
    counter.is_told_of_loss("exported definitions").await;
    renewed(&cluster, &mut counter).await;
    assert!(
        cluster.has_marker("replaced").await,
        "for those who can't know"
    );
    let store = counter.stop().await;
    store.lock().complete = true;
    goes_on(&cluster, &log, &store, 3).await;
}

/// It has no generation that could be missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_never_ran_notices_a_broker_restored_from_definitions() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    append(&log, 1, 1).await;
    assert_eq!(cluster.generations("c1").await, Some(1));
    forget_messages(&cluster).await;
    let mut counter = cluster.counter("c1");
    counter.is_told_of_loss("exported definitions").await;
}

/// The broker is wiped under a coordinator, which founds it anew, before `c1` ever ran.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_founds_again_says_that_the_broker_was_replaced() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    append(&log, 1, 1).await;
    assert!(!cluster.has_marker("replaced").await);
    let channel = cluster.channel().await;
    for marker in ["founded", "founding.c1"] {
        let marker = format!("{}.{marker}", cluster.options.prefix);
        let deleted = channel.exchange_delete(marker.into(), ExchangeDeleteOptions::default());
        deleted.await.expect("deleted");
    }
    let queue = cluster.generation_queue("c1");
    let deleted = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
    deleted.await.expect("deleted");
    cluster.delete_queue("c1").await;
    append(&log, 1, 2).await;
    assert!(cluster.has_marker("founded").await);
    let mut counter = cluster.counter("c1");
    counter.is_told_of_loss("the broker was replaced").await;
}

/// The folder was copied while the counter was stopped, and put back after it had run again.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_store_is_noticed_however_short_it_ran_meanwhile() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    let store = with_history(&cluster, &log).await;
    let older = copy(&store);
    let mut counter = cluster.counter_over("c1", store);
    append(&log, 1, 2).await;
    // It acknowledges, and is gone at once.
    counter.takes(1).await;
    counter.stop().await;
    let mut counter = cluster.counter_over("c1", older);
    counter.is_told_of_loss("an older copy").await;
    renewed(&cluster, &mut counter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_broker_is_noticed() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    let store = with_history(&cluster, &log).await;
    let older = messages(&cluster).await;
    goes_on(&cluster, &log, &store, 2).await;
    forget_messages(&cluster).await;
    put(&cluster, &older[0]).await;
    let mut counter = cluster.counter_over("c1", store);
    counter.is_told_of_loss("an older copy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_queue_that_was_deleted_is_told_of_and_made_again() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    let store = with_history(&cluster, &log).await;
    let queue = cluster.generation_queue("c1");
    let channel = cluster.channel().await;
    let deleted = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
    deleted.await.expect("deleted");
    let mut counter = cluster.counter_over("c1", store);
    counter.is_told_of_loss("no generation queue").await;
    renewed(&cluster, &mut counter).await;
}

/// The next event of the generation, not remembered and not acknowledged.
async fn next_generation(counter: &mut Counter) -> Delivery {
    let next = tokio::time::timeout(PATIENCE, counter.deliveries.next()).await;
    let next = next
        .expect("in time")
        .expect("it goes on")
        .expect("an event");
    assert!(
        matches!(next.delivered, Delivered::Generation(_)),
        "{next:?}"
    );
    next
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_is_broken_off_is_no_loss() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    // The first one, in place of the founding's message.
    let mut counter = cluster.counter("c1");
    counter.begins().await;
    next_generation(&mut counter).await;
    let store = Arc::clone(&counter.standing);
    drop(counter);
    goes_on(&cluster, &log, &store, 1).await;
    // The broker has it, and the store does not.
    let mut counter = cluster.counter_over("c1", Arc::clone(&store));
    next_generation(&mut counter).await;
    drop(counter);
    goes_on(&cluster, &log, &store, 2).await;
    // Both have it, and the old one is still there.
    let mut counter = cluster.counter_over("c1", Arc::clone(&store));
    let Delivered::Generation(kept) = next_generation(&mut counter).await.delivered else {
        unreachable!("just looked at");
    };
    store.lock().generation = Some(kept);
    drop(counter);
    wait::until("two messages", async || {
        match cluster.generations("c1").await {
            Some(2) => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
    goes_on(&cluster, &log, &store, 3).await;
}

/// A cluster of an earlier release has no generation queues.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_broken_off_is_no_loss() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    let store = with_history(&cluster, &log).await;
    store.lock().generation = None;
    let queue = cluster.generation_queue("c1");
    let channel = cluster.channel().await;
    let deleted = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
    deleted.await.expect("deleted");
    // It is about to place its first one.
    let mut counter = cluster.counter_over("c1", Arc::clone(&store));
    let announced = next_generation(&mut counter).await;
    drop(counter);
    // The same, and remembers it.
    let mut counter = cluster.counter_over("c1", Arc::clone(&store));
    let Delivered::Generation(kept) = next_generation(&mut counter).await.delivered else {
        unreachable!("just looked at");
    };
    assert!(!kept.is_placed);
    assert_ne!(announced.delivered, Delivered::Generation(kept));
    store.lock().generation = Some(kept);
    drop(counter);
    // The queue is there, and nothing in it.
    let relay = cluster.relay();
    relay.hold_at(&cluster.declaration_of("started.c1"));
    let mut counter = cluster.counter_by(&relay, "c1", Arc::clone(&store));
    tokio::select! {
        () = relay.held() => {}
        early = counter.next() => panic!("{early:?}"),
    }
    assert_eq!(cluster.generations("c1").await, Some(0));
    relay.cut();
    drop(counter);
    goes_on(&cluster, &log, &store, 2).await;
}

/// The host of a counter died while it looked, and the broker does not know yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_connection_that_hangs_holds_is_not_lost() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    let store = with_history(&cluster, &log).await;
    let hanging = locked(&cluster).await;
    let queue = cluster.generation_queue("c1");
    let held = hanging.basic_get(queue.into(), BasicGetOptions { no_ack: false });
    assert!(held.await.expect("a queue").is_some());
    let mut counter = cluster.counter_over("c1", Arc::clone(&store));
    counter.stays_quiet(LOOKED).await;
    assert!(!counter.deliveries.status().borrow().consuming);
    drop(hanging);
    counter.consumes().await;
    assert!(counter.standing.lock().complete);
    counter.stop().await;
    goes_on(&cluster, &log, &store, 2).await;
}

/// As an operator's look, or the last moment of a connection that ends.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_holds_for_a_moment_is_not_lost() {
    let cluster = Cluster::new();
    let log = cluster.coordinator(&["c1"]);
    let store = with_history(&cluster, &log).await;
    let looking = cluster.channel().await;
    let queue = cluster.generation_queue("c1");
    let held = looking.basic_get(queue.into(), BasicGetOptions { no_ack: false });
    assert!(held.await.expect("a queue").is_some());
    let mut counter = cluster.counter_over("c1", Arc::clone(&store));
    counter.stays_quiet(Duration::from_millis(500)).await;
    drop(looking);
    counter.consumes().await;
    assert!(counter.standing.lock().complete);
}
