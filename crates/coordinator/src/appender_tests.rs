//! Tests of batches that exceed the size limit of the log.
//!
//! Invariant: see the [module above](super).

use std::sync::atomic::Ordering;

use super::*;
use crate::batcher::tests::{durable, items, scripted, start, start_watched, until};
use headcount_model::{Acceptance, TenantItems, merge_by_tenant};
use headcount_runtime::supervisor::Supervisor;

fn many_items(ids: std::ops::Range<u32>) -> Vec<TenantItems> {
    ids.flat_map(items).collect()
}

#[tokio::test]
async fn a_batch_that_the_log_does_not_take_goes_in_parts_that_it_does() {
    let log = scripted();
    let supervisor = Supervisor::default();
    let batcher = start_watched(&log, usize::MAX, &supervisor);
    log.confirms.add_permits(1_000);
    assert_eq!(batcher.submit(many_items(0..100), None).await, durable(1));
    log.bytes_max
        .store(batch_bytes(&items(0)) + 9 * 12, Ordering::Release);
    // Ten items fit.
    assert_eq!(batcher.submit(many_items(0..25), None).await, durable(4));
    assert_eq!(batcher.submit(many_items(0..10), None).await, durable(5));
    // Once the limit is known, a larger batch is split before it is appended.
    assert_eq!(batcher.submit(many_items(0..11), None).await, durable(7));
    // Another node of the broker may have a lower limit. Every item is still in one of the parts.
    log.bytes_max
        .store(batch_bytes(&items(0)), Ordering::Release);
    assert_eq!(batcher.submit(many_items(50..55), None).await, durable(12));
    assert_eq!(batcher.confirmed(), 12);
    let appended = log.appended.lock().expect("not poisoned");
    let sequences: Vec<_> = appended.iter().map(|batch| batch.id().sequence).collect();
    assert_eq!(sequences, (1..=12).collect::<Vec<_>>());
    let counts: Vec<_> = appended.iter().map(|batch| batch.item_count()).collect();
    assert_eq!(counts, [100, 10, 10, 5, 10, 10, 1, 1, 1, 1, 1, 1]);
    let last: Vec<_> = appended[7..]
        .iter()
        .flat_map(|batch| batch.tenants())
        .cloned()
        .collect();
    assert_eq!(merge_by_tenant(last), merge_by_tenant(many_items(50..55)));
    assert_eq!(supervisor.unasked(), None);
}

#[tokio::test]
async fn posts_that_are_too_large_only_together_share_smaller_batches_from_then_on() {
    let log = scripted();
    let batcher = start(&log, usize::MAX);
    log.bytes_max
        .store(batch_bytes(&items(0)) + 9 * 12, Ordering::Release);
    let submit = |id: u32| {
        let batcher = batcher.clone();
        tokio::spawn(async move { batcher.submit(many_items(10 * id..10 * id + 6), None).await })
    };
    let first = submit(0);
    until(|| log.appended.lock().expect("not poisoned").len() == 1).await;
    let rest: Vec<_> = (1..4).map(submit).collect();
    until(|| batcher.waiting() == 3).await;
    log.confirms.add_permits(100);
    assert_eq!(first.await.expect("joins"), durable(1));
    for post in rest {
        // Eighteen items in two parts: each post gets the sequence of the last part.
        assert_eq!(post.await.expect("joins"), durable(3));
    }
    assert_eq!(batcher.submit(many_items(0..6), None).await, durable(4));
}

#[tokio::test]
async fn a_signature_that_the_log_does_not_take_is_refused_and_the_next_batch_goes_on() {
    let log = scripted();
    let supervisor = Supervisor::default();
    let batcher = start_watched(&log, usize::MAX, &supervisor);
    log.confirms.add_permits(100);
    log.bytes_max.store(1, Ordering::Release);
    for _ in 0..2 {
        let refused = batcher.accept(Acceptance::default()).await;
        assert_eq!(refused, Err(NotAppended::TooLarge { bytes_max: 1 }));
        assert_eq!(batcher.handed(), 0, "no counter has it");
    }
    log.bytes_max.store(usize::MAX, Ordering::Release);
    assert_eq!(batcher.submit(items(1), None).await, durable(1));
    assert_eq!(supervisor.unasked(), None);
}
