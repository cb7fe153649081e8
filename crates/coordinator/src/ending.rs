//! How a coordinator ends: told to, or because it must not go on.
//!
//! Invariant: what must not go on acknowledges nothing from then on, and the first reason stays.

use thiserror::Error;
use tokio::sync::watch;

use headcount_log::AppendError;
use headcount_model::Sequence;
use headcount_runtime::supervisor::Ended;

/// Why a coordinator must not go on. The process ends; a restart begins a new epoch.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fatal {
    /// Counters have applied more of this epoch than this process sent: another one goes on with
    /// it.
    #[error(
        "counters hold sequence {seen} of this coordinator's epoch, which sent only {handed}: was a running machine \
         cloned, or brought back to an earlier moment? Items that were answered with 503 want to be posted again"
    )]
    Cloned {
        /// The greatest sequence that a counter holds.
        seen: Sequence,
        /// The greatest sequence that this process handed to the log.
        handed: Sequence,
    },
    /// The log refuses a batch for good, so the epoch can't go on: its sequence can't be given
    /// again.
    #[error("the log refuses a batch for good: {0}")]
    Refused(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Running,
    Closed,
    Fatal(Fatal),
}

/// How far a coordinator's end has come.
pub(super) struct Ending(watch::Sender<Stage>);

impl Ending {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Stage::Running))
    }

    /// Notes that it was told to end.
    pub(crate) fn close(&self) {
        self.0.send_if_modified(|stage| {
            let running = *stage == Stage::Running;
            if running {
                *stage = Stage::Closed;
            }
            running
        });
    }

    /// Notes that it must not go on.
    pub(crate) fn fail(&self, fatal: Fatal) {
        self.0.send_if_modified(|stage| {
            let first = !matches!(stage, Stage::Fatal(_));
            if first {
                tracing::error!(error = %fatal, "the coordinator must not go on");
                *stage = Stage::Fatal(fatal);
            }
            first
        });
    }

    /// Notes why the log took no batch: a refusal for good ends the epoch.
    pub(crate) fn note_append_error(&self, error: AppendError) {
        if let AppendError::Refused(detail) = error {
            self.fail(Fatal::Refused(detail));
        }
    }

    /// How a task ends that can't append any more: of what must not go on, everybody knows already.
    pub(crate) fn without_log(&self) -> Ended {
        match self.is_fatal() {
            true => Ended::Done,
            false => Ended::GaveUp("the log ended".to_owned()),
        }
    }

    pub(crate) fn is_fatal(&self) -> bool {
        matches!(*self.0.borrow(), Stage::Fatal(_))
    }

    /// Resolves once it must not go on.
    pub(crate) async fn fatal(&self) -> Fatal {
        let mut stages = self.0.subscribe();
        loop {
            if let Stage::Fatal(fatal) = &*stages.borrow_and_update() {
                return fatal.clone();
            }
            if stages.changed().await.is_err() {
                // The sender is ours, so this can't be; without a reason there is nothing to
                // resolve with.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resolves once it was told to end, or must not go on.
    pub(crate) async fn over(&self) {
        let mut stages = self.0.subscribe();
        let _ = stages.wait_for(|stage| *stage != Stage::Running).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_stays() {
        let ending = Ending::new();
        ending.close();
        ending.over().await;
        assert!(!ending.is_fatal());
        let cloned = Fatal::Cloned { seen: 2, handed: 1 };
        ending.fail(cloned.clone());
        ending.fail(Fatal::Refused("later".into()));
        ending.close();
        assert!(ending.is_fatal());
        assert_eq!(ending.fatal().await, cloned);
    }
}
