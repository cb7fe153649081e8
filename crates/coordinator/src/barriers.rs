//! A partition's barriers: all who ask while one is on its way share the next.
//!
//! Invariant: a barrier is named only once all who share it have asked. So one that was named
//! before a machine was copied or brought back serves nobody who asks after that.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::batcher::LogEnded;
use super::ending::Ending;
use headcount_log::Log;
use headcount_model::{BarrierEpochs, Batch, BatchId, Partition};
use headcount_runtime::clock::now_ms;
use headcount_runtime::supervisor::{Ended, Supervisor, Task};

/// The sequence of a barrier: its epoch has no other.
const ONLY: u64 = 1;

/// Where barriers of one partition are asked for.
pub(super) struct Barriers {
    asking: mpsc::Sender<oneshot::Sender<BatchId>>,
}

/// What appends them.
struct Appender<L> {
    log: L,
    partition: Partition,
    epochs: BarrierEpochs,
    ending: Arc<Ending>,
}

impl Barriers {
    /// Starts to append barriers of `partition` to `log`. It ends when this handle is dropped, when
    /// the log ends, or when the coordinator must not go on. At most `waiting_max` may wait for the
    /// next one.
    pub(crate) fn start(
        log: impl Log,
        partition: Partition,
        epochs: BarrierEpochs,
        waiting_max: usize,
        ending: Arc<Ending>,
        supervisor: &Supervisor,
    ) -> Self {
        let waiting_max = waiting_max.max(1);
        let (asking, asked) = mpsc::channel(waiting_max);
        let appender = Appender {
            log,
            partition,
            epochs,
            ending,
        };
        supervisor.spawn(Task::Barriers, run(appender, asked, waiting_max));
        Self { asking }
    }

    /// Appends a barrier that is named after this call began, and waits until it is durable.
    pub(crate) async fn append(&self) -> Result<BatchId, LogEnded> {
        let (done, durable) = oneshot::channel();
        self.asking.send(done).await.map_err(|_| LogEnded)?;
        durable.await.map_err(|_| LogEnded)
    }
}

async fn run(
    appender: Appender<impl Log>,
    mut asked: mpsc::Receiver<oneshot::Sender<BatchId>>,
    waiting_max: usize,
) -> Ended {
    let mut waiting = Vec::new();
    while asked.recv_many(&mut waiting, waiting_max).await > 0 {
        waiting.retain(|done| !done.is_closed());
        if waiting.is_empty() {
            continue;
        }
        let Ok(id) = appender.append().await else {
            return appender.ending.without_log();
        };
        for done in waiting.drain(..) {
            // Who no longer waits has nothing to learn.
            let _ = done.send(id);
        }
    }
    Ended::Done
}

impl<L: Log> Appender<L> {
    async fn append(&self) -> Result<BatchId, LogEnded> {
        if self.ending.is_fatal() {
            return Err(LogEnded);
        }
        let id = BatchId {
            partition: self.partition,
            epoch: self.epochs.draw(),
            sequence: ONLY,
        };
        let barrier = Arc::new(Batch::new(id, now_ms(), Vec::new()));
        match self.log.append(barrier).await {
            Ok(_) => Ok(id),
            Err(error) => {
                tracing::error!(%error, "the log took no barrier");
                self.ending.note_append_error(error);
                Err(LogEnded)
            }
        }
    }
}
