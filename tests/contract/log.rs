//! The contract of a log, checked against every implementation of it.
//!
//! Invariant: each sentence of the contract in `headcount::log` has its check here.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use headcount::log::{AppendError, Delivered, Deliveries, Delivery, DeliveryTag, Log, local};
use headcount::model::{
    Batch, BatchId, Epoch, ItemHash, Marks, NewItems, Partition, Sequence, TenantItems, TenantName,
};

use crate::amqp::Cluster;

/// Long enough that a delivery which may come has come.
const QUIET: Duration = Duration::from_millis(50);
/// The longest that a step may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn batch(epoch: u128, sequence: Sequence) -> Arc<Batch> {
    let id = BatchId {
        partition: Partition(0),
        epoch: Epoch(epoch),
        sequence,
    };
    let items = TenantItems {
        tenant: TenantName::new("t").expect("valid"),
        hashes: [ItemHash::of_id(&sequence.to_string())].into(),
    };
    Arc::new(Batch::new(id, 0, vec![items]))
}

async fn next(deliveries: &mut impl Deliveries) -> Option<(DeliveryTag, Vec<Arc<Batch>>)> {
    loop {
        let next = tokio::time::timeout(PATIENCE, deliveries.next()).await;
        let next = next.expect("a delivery in time").expect("the log goes on");
        let Delivery { tag, delivered } = next?;
        match delivered {
            Delivered::Batches(batches) => return Some((tag, batches)),
            // It comes whenever the log likes.
            Delivered::Generation(_) => deliveries.acknowledge(tag).await,
            other => panic!("{other:?}"),
        }
    }
}

/// Takes the one batch that comes next; returns what acknowledges it.
async fn takes(deliveries: &mut impl Deliveries, batch: Arc<Batch>) -> DeliveryTag {
    let (tag, batches) = next(deliveries).await.expect("more to come");
    assert_eq!(batches, [batch]);
    tag
}

/// `append` returns `Ok` only once the batch is acknowledged by the counter, if that is what makes
/// it durable.
async fn an_append_waits_for_durability(log: impl Log, mut deliveries: impl Deliveries) {
    let appended = batch(1, 1);
    let mut append = tokio::spawn({
        let (log, appended) = (log.clone(), Arc::clone(&appended));
        async move { log.append(appended).await }
    });
    let tag = takes(&mut deliveries, appended).await;
    let early = tokio::time::timeout(QUIET, &mut append).await;
    assert!(early.is_err(), "delivered is not yet durable");
    deliveries.acknowledge(tag).await;
    assert_eq!(append.await.expect("joined"), Ok(None));
}

/// An acknowledgement covers what it names and nothing that was delivered after it.
async fn an_acknowledgement_covers_no_later_delivery(
    log: impl Log,
    mut deliveries: impl Deliveries,
) {
    let append = |epoch| {
        let log = log.clone();
        tokio::spawn(async move { log.append(batch(epoch, 1)).await })
    };
    let first = append(1);
    let first_tag = takes(&mut deliveries, batch(1, 1)).await;
    let mut second = append(2);
    let second_tag = takes(&mut deliveries, batch(2, 1)).await;
    assert!(first_tag < second_tag);
    deliveries.acknowledge(first_tag).await;
    assert_eq!(first.await.expect("joined"), Ok(None));
    let early = tokio::time::timeout(QUIET, &mut second).await;
    assert!(early.is_err(), "the second is not covered");
    deliveries.acknowledge(second_tag).await;
    assert_eq!(second.await.expect("joined"), Ok(None));
}

/// What a counter says of a batch comes with the acknowledgement, for that batch alone, where the
/// log tells of it.
async fn what_was_new_comes_with_the_acknowledgement(
    log: impl Log,
    mut deliveries: impl Deliveries,
) {
    let append = |epoch| {
        let log = log.clone();
        tokio::spawn(async move { log.append(batch(epoch, 1)).await })
    };
    let new = |count| NewItems {
        count,
        marks: Marks::none_of(1),
    };
    let mut first = append(1);
    takes(&mut deliveries, batch(1, 1)).await;
    let second = append(2);
    takes(&mut deliveries, batch(2, 1)).await;
    let third = append(3);
    let third_tag = takes(&mut deliveries, batch(3, 1)).await;
    deliveries.tell(batch(2, 1).id(), new(7));
    // Said anew, as of a batch that is counted anew after its commit could not be made.
    deliveries.tell(batch(2, 1).id(), new(2));
    deliveries.tell(batch(1, 1).id(), new(1));
    deliveries.tell(batch(1, 2).id(), new(9));
    if log.tells_new() {
        let early = tokio::time::timeout(QUIET, &mut first).await;
        assert!(early.is_err(), "told is not yet durable");
    }
    deliveries.acknowledge(third_tag).await;
    let told = |new| log.tells_new().then_some(new);
    assert_eq!(first.await.expect("joined"), Ok(told(new(1))));
    assert_eq!(second.await.expect("joined"), Ok(told(new(2))));
    assert_eq!(third.await.expect("joined"), Ok(None));
}

/// Deliveries come in the order of their appends, from any number of appenders, none missing.
async fn deliveries_come_in_order(log: impl Log, mut deliveries: impl Deliveries) {
    const EACH: Sequence = 50;
    let appenders: Vec<_> = (1..=3)
        .map(|epoch| {
            let log = log.clone();
            tokio::spawn(async move {
                for sequence in 1..=EACH {
                    log.append(batch(epoch, sequence)).await?;
                }
                Ok::<_, AppendError>(())
            })
        })
        .collect();
    let mut seen = [0; 3];
    while seen != [EACH; 3] {
        let (tag, batches) = next(&mut deliveries).await.expect("more to come");
        assert!(!batches.is_empty());
        for batch in batches {
            let last = &mut seen[batch.id().epoch.0 as usize - 1];
            assert_eq!(batch.id().sequence, *last + 1);
            *last += 1;
        }
        deliveries.acknowledge(tag).await;
    }
    for appender in appenders {
        assert_eq!(appender.await.expect("joined"), Ok(()));
    }
}

/// What is not acknowledged was never appended, as far as its appender knows.
async fn a_lost_counter_leaves_the_outcome_unknown(log: impl Log, mut deliveries: impl Deliveries) {
    let append = tokio::spawn({
        let log = log.clone();
        async move { log.append(batch(1, 1)).await }
    });
    next(&mut deliveries).await.expect("delivered");
    drop(deliveries);
    assert_eq!(
        append.await.expect("joined"),
        Err(AppendError::OutcomeUnknown)
    );
    assert_eq!(
        log.append(batch(1, 2)).await,
        Err(AppendError::OutcomeUnknown)
    );
}

/// An appender that stops waiting does not take its batch back.
async fn dropping_an_append_does_not_take_it_back(log: impl Log, mut deliveries: impl Deliveries) {
    let abandoned = log.append(batch(1, 1)).now_or_never();
    assert_eq!(abandoned, None);
    let tag = takes(&mut deliveries, batch(1, 1)).await;
    deliveries.acknowledge(tag).await;
}

/// The end comes once every appender is gone, after everything that was appended.
async fn the_last_appender_ends_it(log: impl Log, mut deliveries: impl Deliveries) {
    let abandoned = log.append(batch(1, 1)).now_or_never();
    assert_eq!(abandoned, None);
    drop(log);
    let tag = takes(&mut deliveries, batch(1, 1)).await;
    deliveries.acknowledge(tag).await;
    assert_eq!(next(&mut deliveries).await, None);
}

macro_rules! suite {
    ($implementation:ident, $make:expr, [$($test:ident),* $(,)?]) => {
        mod $implementation {
            $(
                #[tokio::test]
                async fn $test() {
                    let (log, deliveries) = $make;
                    super::$test(log, deliveries).await;
                }
            )*
        }
    };
}

suite!(
    local_log,
    super::local(),
    [
        an_append_waits_for_durability,
        an_acknowledgement_covers_no_later_delivery,
        what_was_new_comes_with_the_acknowledgement,
        deliveries_come_in_order,
        a_lost_counter_leaves_the_outcome_unknown,
        dropping_an_append_does_not_take_it_back,
        the_last_appender_ends_it,
    ]
);

macro_rules! amqp_suite {
    ([$($test:ident),* $(,)?]) => {
        mod amqp_log {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    let cluster = super::Cluster::new();
                    let log = cluster.coordinator(&["c1"]);
                    let mut counter = cluster.counter("c1");
                    counter.begins().await;
                    super::$test(log, counter.deliveries).await;
                }
            )*
        }
    };
}

amqp_suite!([
    what_was_new_comes_with_the_acknowledgement,
    deliveries_come_in_order,
    dropping_an_append_does_not_take_it_back,
]);
