//! The domain types as plain values: items, tenants, batches, positions.
//!
//! Invariant: nothing in this crate does I/O, reads a clock or depends on another crate of the
//! workspace. Every value that exists is valid.

mod acceptance;
mod address;
mod barrier_epochs;
mod batch;
mod counter_name;
mod generation;
mod hash;
mod item;
mod partition;
mod position;
mod secret;
mod sequences;
mod shares;
mod tenant;
mod text;
mod token;

pub use acceptance::{
    Acceptance, COMPLETED_PER_RECORD_MAX, Completes, LOSSES_PER_RECORD_MAX, LossId, NamedLosses,
    Signed,
};
pub use address::is_unambiguous;
pub use barrier_epochs::{BarrierEpochs, Entropy};
pub use batch::{
    Batch, BatchId, Epoch, ItemHashes, SEQUENCE_MAX, Sequence, TenantItems, is_sequence,
    item_count, merge_by_tenant,
};
pub use counter_name::{COUNTER_NAME_CHARS_MAX, CounterName};
pub use generation::{GENERATION_BYTES, Generation, KeptGeneration};
pub use hash::{ITEM_HASH_BYTES, ItemHash};
pub use item::{ITEM_ID_CHARS_MAX, check_item_id};
pub use partition::{PARTITIONS_MAX, Partition, Partitioning};
pub use position::{EpochPosition, Position, Requirement, Verdict};
pub use secret::{CLUSTER_SECRET_CHARS_MAX, CLUSTER_SECRET_CHARS_MIN, ClusterSecret, SecretError};
pub use sequences::Sequences;
pub use shares::{Marks, NewItems, Shares};
pub use tenant::{TENANT_CHARS_MAX, TenantName, check_tenant};
pub use text::{BYTE_ORDER_MARK, is_percent_encoded};
pub use token::{Token, TokenEntries, TokenError};

use thiserror::Error;

/// Why a text is not a valid tenant name or item id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// The text has more characters (Unicode scalar values) than allowed.
    #[error("must have at most {chars_max} characters")]
    TooLong {
        /// The maximum number of characters.
        chars_max: usize,
    },
    /// The text contains a control character (Unicode category Cc).
    #[error("must not contain control characters")]
    Control,
    /// The text is `.` or `..`, which URL libraries remove from paths.
    #[error("must not be \".\" or \"..\"")]
    Dots,
}

/// Checks the rule for tenant names and item ids: 1 to `chars_max` characters, no control
/// characters, not `.` or `..`.
fn check_name(text: &str, chars_max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    // A character takes one to four bytes, so for most names the length in bytes is sufficient to
    // decide.
    if text.len() > chars_max && text.chars().nth(chars_max).is_some() {
        return Err(NameError::TooLong { chars_max });
    }
    if text == "." || text == ".." {
        return Err(NameError::Dots);
    }
    let plain_ascii = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if !plain_ascii && text.chars().any(char::is_control) {
        return Err(NameError::Control);
    }
    Ok(())
}
