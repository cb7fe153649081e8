//! The barriers of a partition. Callers that arrive while one barrier is in flight share the next
//! one.
//!
//! Invariant: a barrier gets its id only after all callers that share it have asked. So a barrier
//! that got its id before a machine was cloned or rolled back is never returned to a caller that
//! asks later.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::batcher::LogEnded;
use super::shutdown::Shutdown;
use headcount_log::Log;
use headcount_model::{BarrierEpochs, Batch, BatchId, Partition};
use headcount_runtime::clock::now_ms;
use headcount_runtime::supervisor::{Ended, Supervisor, Task};

/// The sequence of a barrier, which is the only batch of its epoch.
const ONLY: u64 = 1;

/// Handle to request barriers of one partition.
pub(super) struct Barriers {
    asking: mpsc::Sender<oneshot::Sender<BatchId>>,
}

/// Appends the barriers.
struct Appender<L> {
    log: L,
    partition: Partition,
    epochs: BarrierEpochs,
    ending: Arc<Shutdown>,
}

impl Barriers {
    /// Starts a task that appends barriers of `partition` to `log`. It ends when this handle is
    /// dropped, when the log ends, or when the coordinator must stop. At most `waiting_max` callers
    /// may wait for the next barrier.
    pub(crate) fn start(
        log: impl Log,
        partition: Partition,
        epochs: BarrierEpochs,
        waiting_max: usize,
        ending: Arc<Shutdown>,
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

    /// Appends a barrier that gets its id after this call began, and waits until it is durable.
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
            // A caller that stopped waiting needs no result.
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
                tracing::error!(%error, "barrier append failed");
                self.ending.note_append_error(error);
                Err(LogEnded)
            }
        }
    }
}
