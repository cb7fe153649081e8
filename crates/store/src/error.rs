//! Errors of a store: why it cannot be opened, or failed while it was open.
//!
//! Invariant: each error names the file or directory that it concerns, if there is one.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a store cannot be opened, or failed while it was open.
///
/// After any error except [`Full`](Self::Full), an open store is poisoned: every later change or
/// commit fails too. The process must exit and open the store again, which recovers it.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A system call failed.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// The operation that failed, as a verb.
        action: &'static str,
        /// The file or directory that it concerns.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The disk, or a quota on it, has no room for a new file or for more data. A sync never
    /// returns this error. The store discards the staged changes; committed data stays and remains
    /// readable. The store accepts changes again when there is room.
    #[error("no room to {action} {}: {source}", path.display())]
    Full {
        /// The operation that failed, as a verb.
        action: &'static str,
        /// The file or directory that it concerns.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The content of a file is not what was written. The store did not change anything.
    #[error("{} is damaged at byte {offset}: {detail}", path.display())]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// The offset of the damage, in bytes from the start of the file.
        offset: u64,
        /// What is wrong at that offset.
        detail: String,
    },
    /// A file has a format version of another release, which this release cannot read.
    #[error("{} has format version {found}; this release reads version {known}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version of the file.
        found: u32,
        /// The version that this release reads.
        known: u32,
    },
    /// Another process has the store open.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// The directory belongs to another counter or cluster, or is not a data directory.
    #[error("{}: {detail}", path.display())]
    Foreign {
        /// The data directory.
        path: PathBuf,
        /// The owner or content of the directory, and what to do.
        detail: String,
    },
    /// The path of an open file or directory of the store does not exist any more, or leads to
    /// another file or directory. Acknowledged data is in the files that were open; the store
    /// acknowledges nothing more.
    #[error(
        "{}: {what} while this process had it open, so nothing more is acknowledged; \
         restore the directory, ensure that no other process uses it, and start again",
        path.display()
    )]
    Displaced {
        /// The data directory, or a file in it.
        path: PathBuf,
        /// What happened to it.
        what: String,
    },
    /// An earlier write or flush failed: what is on disk is unknown until the store is opened
    /// again.
    #[error("the store failed earlier; restart the process to recover it")]
    Poisoned,
    /// A thread of the store panicked: what is on disk is unknown until the store is opened again.
    #[error("the store's thread {thread} panicked: {detail}")]
    Panicked {
        /// The thread's name.
        thread: &'static str,
        /// The panic's message.
        detail: String,
    },
    /// The write batch is larger than one commit may be.
    #[error("the write batch exceeds the limit of {bytes_max} bytes per commit")]
    CommitTooLarge {
        /// Upper limit for the size of a commit on disk, in bytes.
        bytes_max: u64,
    },
    /// Keys were ingested, or an ingest was finished, without an open ingest. It was never begun,
    /// or was abandoned.
    #[error("no ingest is open")]
    NoUnite,
    /// The store has as many tenants as a u32 can number.
    #[error("the store has reached its maximum number of tenants")]
    TenantsExhausted,
}

impl StoreError {
    /// The error of creating, extending or writing a file: [`Full`](Self::Full) if there is no
    /// room.
    pub(super) fn of_writing(action: &'static str, path: PathBuf, source: io::Error) -> Self {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match source.kind() {
            StorageFull | QuotaExceeded => Self::Full {
                action,
                path,
                source,
            },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }

    /// Whether the error is [`Full`](Self::Full).
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Converts [`Full`](Self::Full) to [`Io`](Self::Io), for a caller that cannot undo its
    /// changes, so that the store is poisoned.
    #[must_use]
    pub(super) fn final_now(self) -> Self {
        match self {
            Self::Full {
                action,
                path,
                source,
            } => Self::Io {
                action,
                path,
                source,
            },
            other => other,
        }
    }

    /// Copies the error, for a caller that reports it twice. (`io::Error` cannot be cloned.)
    #[must_use]
    pub fn duplicate(&self) -> Self {
        match self {
            Self::Io {
                action,
                path,
                source,
            } => Self::Io {
                action,
                path: path.clone(),
                source: io::Error::new(source.kind(), source.to_string()),
            },
            Self::Full {
                action,
                path,
                source,
            } => Self::Full {
                action,
                path: path.clone(),
                source: io::Error::new(source.kind(), source.to_string()),
            },
            Self::Damaged {
                path,
                offset,
                detail,
            } => Self::Damaged {
                path: path.clone(),
                offset: *offset,
                detail: detail.clone(),
            },
            Self::Version { path, found, known } => Self::Version {
                path: path.clone(),
                found: *found,
                known: *known,
            },
            Self::InUse { path } => Self::InUse { path: path.clone() },
            Self::Foreign { path, detail } => Self::Foreign {
                path: path.clone(),
                detail: detail.clone(),
            },
            Self::Displaced { path, what } => Self::Displaced {
                path: path.clone(),
                what: what.clone(),
            },
            Self::Poisoned => Self::Poisoned,
            Self::Panicked { thread, detail } => Self::Panicked {
                thread,
                detail: detail.clone(),
            },
            Self::CommitTooLarge { bytes_max } => Self::CommitTooLarge {
                bytes_max: *bytes_max,
            },
            Self::NoUnite => Self::NoUnite,
            Self::TenantsExhausted => Self::TenantsExhausted,
        }
    }
}
