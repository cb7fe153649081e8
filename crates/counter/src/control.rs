//! Commands to a running counter: ingest a peer's keys, or stop.
//!
//! Invariant: a command is executed between two commits, and its sender receives the outcome.

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::task::{CounterError, CounterTask};
use headcount_log::Deliveries;
use headcount_model::{ItemHash, Position, TenantName};
use headcount_store::{Store, StoreError};

/// A command to the task.
enum CommandKind {
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
    what: CommandKind,
    /// Receives the outcome; the error describes what found no room.
    done: oneshot::Sender<Result<(), String>>,
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ControlError {
    /// The counter's task has ended.
    #[error("the counter has stopped")]
    Ended,
    /// The disk has no room: the ingest is abandoned.
    #[error("no room on the disk to ingest a snapshot: {0}")]
    Full(String),
}

/// Controls a running counter: ingests a peer's keys into its store, or stops it. Cheap to clone;
/// only one ingest may run at a time.
#[derive(Clone)]
pub struct CounterControl {
    commands: mpsc::Sender<Command>,
}

impl CounterControl {
    pub(super) fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { commands }
    }

    /// Ends the task as the end of the log would: the store is closed, and unacknowledged
    /// deliveries are redelivered.
    ///
    /// # Errors
    /// If the task has already ended.
    pub async fn stop(&self) -> Result<(), ControlError> {
        self.send(CommandKind::Stop).await
    }

    /// Begins an ingest; an unfinished one is abandoned.
    pub(super) async fn begin(&self) -> Result<(), ControlError> {
        self.send(CommandKind::Begin).await
    }

    /// Stages keys for the ingest.
    pub(super) async fn keys(
        &self,
        keys: Vec<(TenantName, Vec<ItemHash>)>,
    ) -> Result<(), ControlError> {
        self.send(CommandKind::Keys(keys)).await
    }

    /// Adds all staged keys to the store at once. With `completes`, the store is complete from then
    /// on, unless the log has reported another possible loss since: the value is how often it had
    /// reported one when the round began.
    pub(super) async fn finish(
        &self,
        position: Position,
        completes: Option<u64>,
    ) -> Result<(), ControlError> {
        let wish = CommandKind::Finish {
            position,
            completes,
        };
        self.send(wish).await
    }

    /// Discards the staged keys.
    pub(super) async fn abandon(&self) -> Result<(), ControlError> {
        self.send(CommandKind::Abandon).await
    }

    async fn send(&self, what: CommandKind) -> Result<(), ControlError> {
        let (done, carried_out) = oneshot::channel();
        let command = Command { what, done };
        let sent = self.commands.send(command).await;
        sent.map_err(|_| ControlError::Ended)?;
        let carried_out = carried_out.await.map_err(|_| ControlError::Ended)?;
        carried_out.map_err(ControlError::Full)
    }
}

impl<S: Store, D: Deliveries> CounterTask<S, D> {
    /// Executes a command. Returns whether the task must end.
    pub(super) fn carry_out(&mut self, command: Command) -> Result<bool, CounterError> {
        let stop = matches!(command.what, CommandKind::Stop);
        let outcome = match self.try_out(command.what) {
            Err(error) if error.is_full() => {
                // The staged keys are incomplete; discard them.
                self.store.abandon_ingest();
                Err(error.to_string())
            }
            done => Ok(done?),
        };
        // The sender may no longer wait for the outcome.
        let _ = command.done.send(outcome);
        Ok(stop)
    }

    fn try_out(&mut self, what: CommandKind) -> Result<(), StoreError> {
        match what {
            CommandKind::Begin => self.store.begin_ingest()?,
            CommandKind::Keys(keys) => {
                for (tenant, hashes) in keys {
                    self.store.ingest(&tenant, &hashes)?;
                }
            }
            CommandKind::Finish {
                position,
                completes,
            } => {
                // A snapshot that was fetched in this round does not repair a loss that was
                // reported since the round began.
                let complete = completes == Some(self.progress.losses());
                self.store.finish_ingest(&position, complete)?;
                self.progress.note(&[], |tally| tally.snapshots += 1);
                self.progress.changed();
            }
            CommandKind::Abandon => self.store.abandon_ingest(),
            CommandKind::Stop => {}
        }
        Ok(())
    }
}
