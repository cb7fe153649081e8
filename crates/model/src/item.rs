//! The id of an item. Two items of a tenant with the same id are the same item.
//!
//! Invariant: an id that passed [`check_item_id`] has 1 to 512 characters, no control characters,
//! and is never `.` or `..`. Ids are not stored; only their [`ItemHash`](super::ItemHash) is.

use super::{NameError, check_name};

/// The maximum number of characters (Unicode scalar values) in an item's id.
pub const ITEM_ID_CHARS_MAX: usize = 512;

/// Checks whether `text` is a valid item id.
///
/// # Errors
/// The first rule that `text` breaks.
pub fn check_item_id(text: &str) -> Result<(), NameError> {
    check_name(text, ITEM_ID_CHARS_MAX)
}
