//! Shutdown of a coordinator: by request, or because of a fatal error.
//!
//! Invariant: after a fatal error the coordinator acknowledges nothing. The first fatal error is
//! kept.

use thiserror::Error;
use tokio::sync::watch;

use headcount_log::AppendError;
use headcount_model::Sequence;
use headcount_runtime::supervisor::Ended;

/// Why a coordinator must stop. The process exits; a restart begins a new epoch.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fatal {
    /// Counters have applied more batches of this epoch than this process appended: another process
    /// continues the epoch.
    #[error(
        "counters hold sequence {seen} of this coordinator's epoch, but it appended only up to \
         {handed}: was a running machine cloned or rolled back? Clients must retry requests that \
         got 503"
    )]
    Cloned {
        /// The greatest sequence that a counter holds.
        seen: Sequence,
        /// The greatest sequence that this process submitted to the log.
        handed: Sequence,
    },
    /// The log permanently rejected a batch. The epoch cannot continue, because the sequence cannot
    /// be reused.
    #[error("the log permanently rejected a batch: {0}")]
    Refused(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Running,
    Closed,
    Fatal(Fatal),
}

/// Shutdown state of a coordinator.
pub(super) struct Shutdown(watch::Sender<Stage>);

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Stage::Running))
    }

    /// Records that shutdown was requested.
    pub(crate) fn close(&self) {
        self.0.send_if_modified(|stage| {
            let running = *stage == Stage::Running;
            if running {
                *stage = Stage::Closed;
            }
            running
        });
    }

    /// Records a fatal error.
    pub(crate) fn fail(&self, fatal: Fatal) {
        self.0.send_if_modified(|stage| {
            let first = !matches!(stage, Stage::Fatal(_));
            if first {
                tracing::error!(error = %fatal, "fatal coordinator error; shutting down");
                *stage = Stage::Fatal(fatal);
            }
            first
        });
    }

    /// Records why an append failed. A permanent rejection is fatal, because it ends the epoch.
    pub(crate) fn note_append_error(&self, error: AppendError) {
        if let AppendError::Refused(detail) = error {
            self.fail(Fatal::Refused(detail));
        }
    }

    /// How a task ends that can no longer append. After a fatal error the task is done, because
    /// that error was already reported.
    pub(crate) fn without_log(&self) -> Ended {
        match self.is_fatal() {
            true => Ended::Done,
            false => Ended::GaveUp("the log ended".to_owned()),
        }
    }

    pub(crate) fn is_fatal(&self) -> bool {
        matches!(*self.0.borrow(), Stage::Fatal(_))
    }

    /// Resolves once there was a fatal error.
    pub(crate) async fn fatal(&self) -> Fatal {
        let mut stages = self.0.subscribe();
        loop {
            if let Stage::Fatal(fatal) = &*stages.borrow_and_update() {
                return fatal.clone();
            }
            if stages.changed().await.is_err() {
                // Unreachable, because `self` owns the sender. Without an error there is no value
                // to resolve with.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resolves once shutdown was requested or there was a fatal error.
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
        let ending = Shutdown::new();
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
