//! Tests of group commit over a log that confirms when the test says so.
//!
//! Invariant: the tests look only at the batches that the log gets and at the results that posts
//! get.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use tokio::sync::Semaphore;

use super::*;
use crate::Fatal;
use headcount_log::AppendError;
use headcount_model::{Batch, ItemHash, NewItems, TenantName};

/// A log that records the batches that it gets and confirms one append for each permit.
#[derive(Clone)]
pub(crate) struct Scripted {
    pub appended: Arc<Mutex<Vec<Arc<Batch>>>>,
    pub confirms: Arc<Semaphore>,
    is_full: Arc<AtomicBool>,
    /// The largest encoded size of a batch that it accepts, in bytes.
    pub bytes_max: Arc<AtomicUsize>,
}

impl Log for Scripted {
    async fn append(&self, batch: Arc<Batch>) -> Result<Option<NewItems>, AppendError> {
        let bytes_max = self.bytes_max.load(Ordering::Acquire);
        if batch_bytes(batch.tenants()) > bytes_max {
            return Err(AppendError::TooLarge { bytes_max });
        }
        self.appended.lock().expect("not poisoned").push(batch);
        let permit = self.confirms.acquire().await;
        permit.map_err(|_| AppendError::OutcomeUnknown)?.forget();
        match self.is_full.load(Ordering::Acquire) {
            true => Err(AppendError::Full("the disk".into())),
            false => Ok(None),
        }
    }
}

/// The result of a post whose log does not report which items were new.
pub(crate) fn durable(sequence: Sequence) -> Result<Durable, NotAppended> {
    Ok(Durable {
        sequence,
        new: None,
    })
}

pub(crate) fn scripted() -> Scripted {
    Scripted {
        appended: Arc::default(),
        confirms: Arc::new(Semaphore::new(0)),
        is_full: Arc::default(),
        bytes_max: Arc::new(AtomicUsize::new(usize::MAX)),
    }
}

pub(crate) fn start(log: &Scripted, batch_bytes_max: usize) -> Batcher {
    start_watched(log, batch_bytes_max, &Supervisor::default())
}

pub(crate) fn start_watched(
    log: &Scripted,
    batch_bytes_max: usize,
    supervisor: &Supervisor,
) -> Batcher {
    let options = BatcherOptions {
        partition: Partition(0),
        epoch: Epoch(1),
        batch_bytes_max,
        waiting_posts_max: 100,
    };
    let ending = Arc::new(Shutdown::new());
    Batcher::start(log.clone(), options, ending, supervisor)
}

pub(crate) fn items(id: u32) -> Vec<TenantItems> {
    vec![TenantItems {
        tenant: TenantName::new("t").expect("valid"),
        hashes: [ItemHash::of_id(&id.to_string())].into(),
    }]
}

pub(crate) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn posts_gather_while_one_batch_is_in_flight() {
    let log = scripted();
    let batcher = start(&log, usize::MAX);
    let submit = |id| {
        let batcher = batcher.clone();
        tokio::spawn(async move { batcher.submit(items(id), None).await })
    };
    let first = submit(0);
    let appended = || log.appended.lock().expect("not poisoned").len();
    until(|| appended() == 1).await;
    let rest: Vec<_> = (1..20).map(submit).collect();
    until(|| batcher.submissions.capacity() == 100 - 19).await;
    assert_eq!(appended(), 1, "the second batch waits for the first");
    assert_eq!(batcher.confirmed(), 0);
    log.confirms.add_permits(1);
    assert_eq!(first.await.expect("joins"), durable(1));
    assert_eq!(batcher.confirmed(), 1);
    log.confirms.add_permits(1);
    for post in rest {
        assert_eq!(
            post.await.expect("joins"),
            durable(2),
            "all waiting posts share one batch"
        );
    }
    assert_eq!(
        log.appended.lock().expect("not poisoned")[1].item_count(),
        19
    );
}

#[tokio::test]
async fn those_who_post_again_when_answered_share_the_next_batch_with_who_waits() {
    let log = scripted();
    let batcher = start(&log, usize::MAX);
    let submit = |id, again: Option<u32>| {
        let batcher = batcher.clone();
        tokio::spawn(async move {
            let sequence = batcher.submit(items(id), None).await?;
            match again {
                Some(again) => batcher.submit(items(again), None).await,
                None => Ok(sequence),
            }
        })
    };
    let appended = || log.appended.lock().expect("not poisoned").len();
    let waiting = || 100 - batcher.submissions.capacity();
    let first = submit(0, None);
    until(|| appended() == 1).await;
    let regulars: Vec<_> = (1..4).map(|id| submit(id, Some(10 + id))).collect();
    until(|| waiting() == 3).await;
    log.confirms.add_permits(1);
    until(|| appended() == 2).await;
    let patient = submit(4, None);
    until(|| waiting() == 1).await;
    log.confirms.add_permits(100);
    for post in regulars {
        assert_eq!(
            post.await.expect("joins"),
            durable(3),
            "shares a batch with the waiting post"
        );
    }
    assert_eq!(patient.await.expect("joins"), durable(3));
    assert_eq!(first.await.expect("joins"), durable(1));
}

#[tokio::test]
async fn a_batch_is_capped_but_a_post_is_never_split() {
    let log = scripted();
    let batcher = start(&log, 1);
    log.confirms.add_permits(100);
    let (one, two) = tokio::join!(
        batcher.submit([items(1), items(2)].concat(), None),
        batcher.submit(items(3), None),
    );
    assert_eq!((one, two), (durable(1), durable(2)));
    let appended = log.appended.lock().expect("not poisoned");
    assert_eq!(appended[0].item_count(), 2);
    assert_eq!(appended[1].item_count(), 1);
}

#[tokio::test]
async fn barriers_count_in_sequences_of_their_own_epoch() {
    let log = scripted();
    let batcher = start(&log, usize::MAX);
    log.confirms.add_permits(100);
    assert_eq!(batcher.submit(Vec::new(), None).await, durable(1));
    assert_eq!(batcher.submit(Vec::new(), None).await, durable(2));
    assert_eq!(batcher.confirmed(), 2);
    assert!(log.appended.lock().expect("not poisoned")[1].is_barrier());
}

#[tokio::test]
async fn an_acceptance_has_a_batch_of_its_own() {
    let log = scripted();
    let batcher = start(&log, usize::MAX);
    log.confirms.add_permits(100);
    let accepted = Acceptance {
        losses: vec![(Epoch(3), 1, 2)],
        ..Acceptance::default()
    };
    let (before, alone, after) = tokio::join!(
        batcher.submit(items(1), None),
        batcher.accept(accepted.clone()),
        batcher.submit(items(2), None),
    );
    assert_eq!((before, alone, after), (durable(1), Ok(2), durable(3)));
    let appended = log.appended.lock().expect("not poisoned");
    assert_eq!(appended[1].acceptance(), Some(&accepted));
    assert_eq!(appended[2].item_count(), 1);
}

#[tokio::test]
async fn after_a_fatal_end_nothing_is_acknowledged_though_it_is_durable() {
    let log = scripted();
    let ending = Arc::new(Shutdown::new());
    let options = BatcherOptions {
        partition: Partition(0),
        epoch: Epoch(1),
        batch_bytes_max: usize::MAX,
        waiting_posts_max: 100,
    };
    let supervisor = Supervisor::default();
    let batcher = Batcher::start(log.clone(), options, Arc::clone(&ending), &supervisor);
    let post = tokio::spawn({
        let batcher = batcher.clone();
        async move { batcher.submit(items(1), None).await }
    });
    until(|| batcher.handed() == 1).await;
    ending.fail(Fatal::Cloned { seen: 2, handed: 1 });
    log.confirms.add_permits(1);
    assert_eq!(post.await.expect("joins"), Err(NotAppended::LogEnded));
    assert_eq!(batcher.confirmed(), 0);
}

#[tokio::test]
async fn when_the_log_ends_nothing_is_acknowledged_any_more_and_the_process_hears_of_it() {
    let log = scripted();
    let supervisor = Supervisor::default();
    let batcher = start_watched(&log, usize::MAX, &supervisor);
    log.confirms.close();
    assert_eq!(
        batcher.submit(items(1), None).await,
        Err(NotAppended::LogEnded)
    );
    assert_eq!(
        batcher.submit(items(2), None).await,
        Err(NotAppended::LogEnded)
    );
    assert_eq!(batcher.confirmed(), 0);
    assert_eq!(supervisor.ended().await.task, Task::Batcher);
}

#[tokio::test]
async fn a_batcher_that_nobody_needs_any_more_ends_unnoticed() {
    let supervisor = Supervisor::default();
    let log = scripted();
    let batcher = start_watched(&log, usize::MAX, &supervisor);
    log.confirms.add_permits(1);
    assert_eq!(batcher.submit(items(1), None).await, durable(1));
    drop(batcher);
    // The batcher drops its handle of the log when it ends.
    until(|| Arc::strong_count(&log.confirms) == 1).await;
    tokio::task::yield_now().await;
    assert_eq!(supervisor.unasked(), None);
}

#[tokio::test]
async fn a_batch_without_room_is_refused_and_its_sequence_is_the_next_ones() {
    let log = scripted();
    let supervisor = Supervisor::default();
    let batcher = start_watched(&log, usize::MAX, &supervisor);
    log.confirms.add_permits(100);
    assert_eq!(batcher.submit(items(1), None).await, durable(1));
    log.is_full.store(true, Ordering::Release);
    for id in 2..5 {
        let refused = batcher.submit(items(id), None).await;
        assert_eq!(refused, Err(NotAppended::Full));
    }
    assert_eq!(batcher.confirmed(), 1);
    log.is_full.store(false, Ordering::Release);
    assert_eq!(batcher.submit(items(5), None).await, durable(2));
    let appended = log.appended.lock().expect("not poisoned");
    let sequences: Vec<_> = appended.iter().map(|batch| batch.id().sequence).collect();
    assert_eq!(sequences, [1, 2, 2, 2, 2]);
    assert_eq!(supervisor.unasked(), None);
}

/// A log that counts all items as new and reports that.
#[derive(Clone)]
struct Telling(Scripted);

impl Log for Telling {
    async fn append(&self, batch: Arc<Batch>) -> Result<Option<NewItems>, AppendError> {
        self.0.append(Arc::clone(&batch)).await?;
        let mut marks = batch.unmarked();
        let mut seen = std::collections::HashSet::new();
        let all = batch.tenants().iter().flat_map(|group| &group.hashes);
        for (place, hash) in all.enumerate() {
            if seen.insert(*hash)
                && let Some(marks) = &mut marks
            {
                marks.mark(place);
            }
        }
        Ok(Some(NewItems {
            count: seen.len() as u64,
            marks: marks.unwrap_or_default(),
        }))
    }

    fn tells_new(&self) -> bool {
        true
    }
}

/// Covers a post alone, posts in one batch that contain the same item, and a post without items.
#[tokio::test]
async fn each_post_is_told_what_was_new_of_it() {
    let log = scripted();
    let options = BatcherOptions {
        partition: Partition(0),
        epoch: Epoch(1),
        batch_bytes_max: usize::MAX,
        waiting_posts_max: 100,
    };
    let telling = Telling(log.clone());
    let ending = Arc::new(Shutdown::new());
    let batcher = Batcher::start(telling, options, ending, &Supervisor::default());
    let submit = |items| {
        let batcher = batcher.clone();
        tokio::spawn(async move { batcher.submit(items, None).await })
    };
    let first = submit([items(1), items(1), items(2)].concat());
    until(|| log.appended.lock().expect("not poisoned").len() == 1).await;
    let together = [
        items(7),
        [items(7), items(8)].concat(),
        Vec::new(),
        items(9),
    ];
    let together = together.map(submit);
    until(|| batcher.submissions.capacity() == 100 - 4).await;
    log.confirms.add_permits(2);
    let new = async |post: tokio::task::JoinHandle<Result<Durable, NotAppended>>| {
        post.await.expect("joins").map(|durable| durable.new)
    };
    assert_eq!(new(first).await, Ok(Some(2)));
    let mut told = Vec::new();
    for post in together {
        told.push(new(post).await.expect("durable").expect("a number"));
    }
    assert_eq!(told, [1, 1, 0, 1]);
}
