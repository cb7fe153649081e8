//! Faults of items as clients see them: in the problem of a refused batch, and in the answer to a
//! partial one.
//!
//! Invariant: a fault names its place in the body as it was sent.

use serde::Serialize;
use utoipa::ToSchema;

use super::parse::ItemError;

/// One fault in a batch of items.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Fault {
    /// The item's index in the array, or its line's index in NDJSON, from 0.
    index: usize,
    /// A JSON Pointer to the fault: into the body, or into the line in NDJSON.
    pointer: String,
    /// What is wrong.
    detail: String,
}

impl Fault {
    /// A line that is no JSON.
    pub(super) fn of_line(index: usize, detail: String) -> Self {
        let pointer = String::new();
        Self {
            index,
            pointer,
            detail,
        }
    }
}

impl From<ItemError> for Fault {
    fn from(error: ItemError) -> Self {
        Self {
            index: error.index,
            pointer: error.pointer,
            detail: error.detail,
        }
    }
}
