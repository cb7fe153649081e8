//! Errors of items as clients see them, in the problem of a rejected request and in the response to
//! a partial one.
//!
//! Invariant: an error names its place in the body as it was sent.

use serde::Serialize;
use utoipa::ToSchema;

use super::parse::ItemError;

/// An error of one item.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Fault {
    /// The index of the item in the array or, in NDJSON, of its line. It starts at 0.
    index: usize,
    /// A JSON Pointer (RFC 6901) to the error, within the body or, in NDJSON, within the line.
    pointer: String,
    /// What is wrong.
    detail: String,
}

impl Fault {
    /// The error of a line that is not JSON.
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
