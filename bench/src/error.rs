//! Why a measurement did not come to its end.
//!
//! Invariant: a count that is wrong is an error, never a number in a table.

use std::io;

use thiserror::Error;

/// Why a measurement did not come to its end.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The operating system refused.
    #[error("can't {action}: {source}")]
    Io {
        /// What was being done.
        action: String,
        /// The system's word.
        source: io::Error,
    },
    /// Our store failed.
    #[error(transparent)]
    Store(#[from] headcount::store::StoreError),
    /// Our node's parts could not be put together.
    #[error("can't start: {0}")]
    Start(String),
    /// fjall failed.
    #[error("fjall: {0}")]
    Fjall(#[from] fjall::Error),
    /// PostgreSQL refused.
    #[error("PostgreSQL: {0}")]
    Postgres(#[from] tokio_postgres::Error),
    /// A peer's server or client did not do what it should.
    #[error("{peer}: {detail}")]
    Peer {
        /// Which one.
        peer: &'static str,
        /// What happened.
        detail: String,
    },
    /// What was counted is not what was sent.
    #[error("the counts are wrong: {0}")]
    WrongCount(String),
}

impl BenchError {
    /// The system's refusal of `action`.
    pub fn io(action: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            action: action.into(),
            source,
        }
    }
}
