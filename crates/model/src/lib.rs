//! The words of the domain as plain values: what an item, a tenant, a batch, a position are.
//!
//! Invariant: nothing here does I/O, reads a clock or knows another module; a value that exists is
//! valid.

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

/// Why a text can't be a tenant or an item id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// It has no characters.
    #[error("must not be empty")]
    Empty,
    /// It has more characters (Unicode scalar values) than allowed.
    #[error("must have at most {chars_max} characters")]
    TooLong {
        /// The most characters allowed.
        chars_max: usize,
    },
    /// It has a control character (Unicode category Cc).
    #[error("must not contain control characters")]
    Control,
    /// It is `.` or `..`, which URL libraries remove from paths.
    #[error("must not be \".\" or \"..\"")]
    Dots,
}

/// The rule shared by tenants and ids: 1 to `chars_max` characters, no control characters, not `.`
/// or `..`.
fn check_name(text: &str, chars_max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    // A character takes one to four bytes, so most names are decided by their length alone.
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
