//! The reason why a measurement failed.
//!
//! Invariant: a wrong count is an error, never a number in a table.

use std::io;

use thiserror::Error;

/// The reason why a measurement failed.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The operating system refused.
    #[error("can't {action}: {source}")]
    Io {
        /// The failed action.
        action: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Headcount's store failed.
    #[error(transparent)]
    Store(#[from] headcount::store::StoreError),
    /// The parts of Headcount's node could not be put together.
    #[error("can't start: {0}")]
    Start(String),
    /// fjall failed.
    #[error("fjall: {0}")]
    Fjall(#[from] fjall::Error),
    /// PostgreSQL returned an error.
    #[error("PostgreSQL: {0}")]
    Postgres(#[from] tokio_postgres::Error),
    /// The server or client of a contender failed.
    #[error("{peer}: {detail}")]
    Peer {
        /// The contender.
        peer: &'static str,
        /// What happened.
        detail: String,
    },
    /// The counts do not equal the items that were sent.
    #[error("the counts are wrong: {0}")]
    WrongCount(String),
}

impl BenchError {
    /// Creates an I/O error of `action`.
    pub fn io(action: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            action: action.into(),
            source,
        }
    }
}
