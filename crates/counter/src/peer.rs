//! A counter of this process as a peer: it sends a snapshot while the counter runs.
//!
//! Invariant: reading is at most a few frames ahead of the receiver, and ends with it.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::{mpsc, oneshot};

use super::snapshot::SnapshotEncoder;
use super::{LocalCounter, Peer, QueryError, SnapshotStream};
use headcount_store::{StoreError, StoreReader};

/// Frames that are read ahead of the receiver.
const FRAMES_AHEAD: usize = 4;

type Frame = Result<Bytes, QueryError>;

impl<R: StoreReader> Peer for LocalCounter<R> {
    fn snapshot(&self) -> BoxFuture<'_, Result<SnapshotStream, QueryError>> {
        let reader = self.reader.clone();
        async move {
            let (frames, read) = mpsc::channel(FRAMES_AHEAD);
            let (taken, ready) = oneshot::channel();
            // This blocks on the disk and on the receiver of the frames.
            #[expect(
                clippy::disallowed_methods,
                reason = "the reader of one snapshot, which is truncated if it fails"
            )]
            tokio::task::spawn_blocking(move || send(&reader, taken, &frames));
            ready.await.map_err(|_| {
                QueryError::Store("the snapshot reader ended unexpectedly".into())
            })??;
            let frames = stream::unfold(read, async |mut read| {
                let frame = read.recv().await?;
                Some((frame, read))
            });
            Ok(frames.boxed())
        }
        .boxed()
    }
}

/// Takes a snapshot, reports whether that succeeded, and sends its frames as long as there is a
/// receiver.
fn send<R: StoreReader>(
    reader: &R,
    taken: oneshot::Sender<Result<(), QueryError>>,
    frames: &mpsc::Sender<Frame>,
) {
    let snapshot = match reader.snapshot() {
        Ok(snapshot) => snapshot,
        Err(error) => {
            let _ = taken.send(Err(unreadable(error)));
            return;
        }
    };
    if taken.send(Ok(())).is_err() {
        return;
    }
    for frame in SnapshotEncoder::new(snapshot) {
        let frame = frame.map(Bytes::from).map_err(unreadable);
        if frames.blocking_send(frame).is_err() {
            return;
        }
    }
}

fn unreadable(error: StoreError) -> QueryError {
    QueryError::Store(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use parking_lot::RwLockReadGuard;

    use super::*;
    use crate::CounterTask;
    use crate::snapshot::{Part, SnapshotDecoder};
    use headcount_log::local;
    use headcount_model::{ItemHash, KeptGeneration, Partition, Partitioning, TenantName};
    use headcount_store::memory::MemoryStore;
    use headcount_store::{CommittedState, Key, LookUp, Snapshot, Store, StoreShape, StoreStats};

    /// A reader that counts the keys it has read.
    #[derive(Clone)]
    struct Counting<R> {
        inside: R,
        read: Arc<AtomicUsize>,
    }

    impl<R: StoreReader> StoreReader for Counting<R> {
        fn committed(&self) -> RwLockReadGuard<'_, CommittedState> {
            self.inside.committed()
        }

        fn look_up(
            &self,
            committed: &RwLockReadGuard<'_, CommittedState>,
            tenant: &TenantName,
            hash: &ItemHash,
        ) -> LookUp {
            self.inside.look_up(committed, tenant, hash)
        }

        fn snapshot(&self) -> Result<Snapshot, StoreError> {
            let Snapshot { committed, keys } = self.inside.snapshot()?;
            let read = Arc::clone(&self.read);
            let counted = keys.inspect(move |_: &Result<Key, StoreError>| {
                read.fetch_add(1, Ordering::Relaxed);
            });
            Ok(Snapshot {
                committed,
                keys: Box::new(counted),
            })
        }

        fn generation(&self) -> Option<KeptGeneration> {
            self.inside.generation()
        }

        fn stats(&self) -> StoreStats {
            self.inside.stats()
        }
    }

    const ITEMS: usize = 200_000;

    fn counter() -> (LocalCounter<impl StoreReader>, Arc<AtomicUsize>) {
        let mut store = MemoryStore::new(StoreShape {
            partitioning: Partitioning::SINGLE,
        });
        let hashes: Vec<_> = (0..ITEMS)
            .map(|id| ItemHash::of_id(&id.to_string()))
            .collect();
        let tenant = TenantName::new("t").expect("valid");
        store
            .insert(Partition(0), &tenant, &hashes)
            .expect("inserted");
        store.commit().expect("commits");
        let read = Arc::<AtomicUsize>::default();
        let reader = Counting {
            inside: store.reader(),
            read: Arc::clone(&read),
        };
        let (_, deliveries) = local();
        let (_, counter) = CounterTask::new("c".into(), 1, store, deliveries);
        (counter.reading(reader), read)
    }

    #[tokio::test]
    async fn a_snapshot_comes_whole_and_is_read_only_as_it_is_taken() {
        let (counter, read) = counter();
        let mut frames = counter.snapshot().await.expect("a snapshot");
        let first = frames.next().await.expect("a frame").expect("intact");
        // Nothing receives the next frames: reading must stop far from the end.
        let mut before = usize::MAX;
        while before != read.load(Ordering::Relaxed) {
            before = read.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(before < ITEMS / 2, "{before} keys were read ahead");

        let mut decoder = SnapshotDecoder::default();
        decoder.push(&first).expect("intact");
        let mut items = 0;
        loop {
            while let Some(part) = decoder.next().expect("intact") {
                if let Part::Keys { hashes, .. } = part {
                    items += hashes.len();
                }
            }
            let Some(frame) = frames.next().await else {
                break;
            };
            decoder.push(&frame.expect("intact")).expect("intact");
        }
        decoder.finish().expect("whole");
        assert_eq!(items, ITEMS);
    }
}
