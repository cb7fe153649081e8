//! Steering a running counter: another's keys into its store, and its end.
//!
//! Invariant: a command is carried out between two commits, and whoever gave it hears what came of
//! it.

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::task::{CounterError, CounterTask};
use headcount_log::Deliveries;
use headcount_model::{ItemHash, Position, TenantName};
use headcount_store::{Store, StoreError};

/// What is asked of the task.
enum Wish {
    Begin,
    Keys(Vec<(TenantName, Vec<ItemHash>)>),
    Finish {
        position: Position,
        completes: Option<u64>,
    },
    Abandon,
    Stop,
}

pub(super) struct Command {
    what: Wish,
    /// Told what found no room, if anything did.
    done: oneshot::Sender<Result<(), String>>,
}

/// Why a counter did not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ControlError {
    /// Its task has ended.
    #[error("the counter has stopped")]
    Ended,
    /// There is no room on its disk: the unite is abandoned.
    #[error("there is no room to unite a snapshot: {0}")]
    Full(String),
}

/// Steers a running counter: takes another's keys into its store, or stops it. Cheap to clone; one
/// at a time may unite.
#[derive(Clone)]
pub struct CounterControl {
    commands: mpsc::Sender<Command>,
}

impl CounterControl {
    pub(super) fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { commands }
    }

    /// Ends the task as the log's end would: the store is closed, what is not acknowledged comes
    /// again.
    ///
    /// # Errors
    /// When it has ended already.
    pub async fn stop(&self) -> Result<(), ControlError> {
        self.send(Wish::Stop).await
    }

    /// Begins anew.
    pub(super) async fn begin(&self) -> Result<(), ControlError> {
        self.send(Wish::Begin).await
    }

    /// Sets keys aside.
    pub(super) async fn keys(
        &self,
        keys: Vec<(TenantName, Vec<ItemHash>)>,
    ) -> Result<(), ControlError> {
        self.send(Wish::Keys(keys)).await
    }

    /// Takes all that was set aside in, at once. The store is complete then where it `completes`,
    /// unless the log has said since that batches may be lost: it is how often it had said so when
    /// the round began.
    pub(super) async fn finish(
        &self,
        position: Position,
        completes: Option<u64>,
    ) -> Result<(), ControlError> {
        let wish = Wish::Finish {
            position,
            completes,
        };
        self.send(wish).await
    }

    /// Forgets what was set aside.
    pub(super) async fn abandon(&self) -> Result<(), ControlError> {
        self.send(Wish::Abandon).await
    }

    async fn send(&self, what: Wish) -> Result<(), ControlError> {
        let (done, carried_out) = oneshot::channel();
        let command = Command { what, done };
        let sent = self.commands.send(command).await;
        sent.map_err(|_| ControlError::Ended)?;
        let carried_out = carried_out.await.map_err(|_| ControlError::Ended)?;
        carried_out.map_err(ControlError::Full)
    }
}

impl<S: Store, D: Deliveries> CounterTask<S, D> {
    /// Says whether the task is to end.
    pub(super) fn carry_out(&mut self, command: Command) -> Result<bool, CounterError> {
        let stop = matches!(command.what, Wish::Stop);
        let outcome = match self.try_out(command.what) {
            Err(error) if error.is_full() => {
                // What of it was set aside is not all.
                self.store.abandon_unite();
                Err(error.to_string())
            }
            done => Ok(done?),
        };
        // A healer that no longer waits has nothing to learn.
        let _ = command.done.send(outcome);
        Ok(stop)
    }

    fn try_out(&mut self, what: Wish) -> Result<(), StoreError> {
        match what {
            Wish::Begin => self.store.begin_unite()?,
            Wish::Keys(keys) => {
                for (tenant, hashes) in keys {
                    self.store.unite(&tenant, &hashes)?;
                }
            }
            Wish::Finish {
                position,
                completes,
            } => {
                // A loss noticed since the round began is not made good by what was fetched in it.
                let complete = completes == Some(self.progress.losses());
                self.store.finish_unite(&position, complete)?;
                self.progress.note(&[], |tally| tally.snapshots += 1);
                self.progress.changed();
            }
            Wish::Abandon => self.store.abandon_unite(),
            Wish::Stop => {}
        }
        Ok(())
    }
}
