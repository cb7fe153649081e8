//! Why a store can't open, or can't go on.
//!
//! Invariant: each error names the file or folder that it is about, where there is one.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a store can't open, or can't go on.
///
/// After any error of a running store but [`Full`](Self::Full) it is poisoned: every later change
/// or commit fails too, and the process must exit and recover by opening again.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The disk, or a quota on it, has no room for what was to be made or written. It is never said
    /// of a sync. What was staged is forgotten, as if it had never come; what was committed stays
    /// and can be read. The store goes on once there is room.
    #[error("no room to {action} {}: {source}", path.display())]
    Full {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A file is not as it was written. Nothing was changed.
    #[error("{} is damaged at byte {offset}: {detail}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where in it, in bytes from its start.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
    /// A file was written by a release that this one does not know.
    #[error("{} has format version {found}; this release reads version {known}", path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that this release reads.
        known: u32,
    },
    /// Another process has the store open.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The store's folder.
        path: PathBuf,
    },
    /// The folder belongs to another counter or cluster, or is no store.
    #[error("{}: {detail}", path.display())]
    Foreign {
        /// The store's folder.
        path: PathBuf,
        /// Whose it is.
        detail: String,
    },
    /// Something that the store had open lost its name, or its name stands for something else now.
    /// What was acknowledged is where it was written; nothing more is.
    #[error(
        "{}: {what} while this process had it open, so nothing more is acknowledged; \
         put the folder back where it was, see that no other process uses it, and start again",
        path.display()
    )]
    Displaced {
        /// The store's folder, or a file in it.
        path: PathBuf,
        /// What happened to it.
        what: String,
    },
    /// An earlier write or flush failed: what is on disk is unknown until the store is opened
    /// again.
    #[error("the store failed earlier and must be opened again")]
    Poisoned,
    /// A thread of the store panicked: what is on disk is unknown until the store is opened again.
    #[error("its thread {thread} panicked: {detail}")]
    Panicked {
        /// The thread's name.
        thread: &'static str,
        /// The panic's message.
        detail: String,
    },
    /// More was staged than one commit may hold.
    #[error("a commit may hold {bytes_max} bytes at most")]
    CommitTooLarge {
        /// The most bytes that a commit may take on disk.
        bytes_max: u64,
    },
    /// Keys were to be united, or a unite finished, that was not begun, or was abandoned.
    #[error("no unite was begun")]
    NoUnite,
    /// There are more tenants than a u32 can number.
    #[error("no more tenants can be numbered")]
    TenantsExhausted,
}

impl StoreError {
    /// The error of making, growing or writing a file: [`Full`](Self::Full) where it is want of
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

    /// Whether it is want of room: see [`Full`](Self::Full).
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// The same error where what has no room can't be left as it is.
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

    /// The same error again: for one that must be told in two places.
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
