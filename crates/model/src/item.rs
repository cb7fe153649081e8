//! An item's id: what makes an item of a tenant the same item again.
//!
//! Invariant: an id that passed [`check_item_id`] has 1 to 512 characters, no control characters,
//! and is never `.` or `..`. Ids are not kept: only their [`ItemHash`](super::ItemHash) is.

use super::{NameError, check_name};

/// The most characters (Unicode scalar values) in an item's id.
pub const ITEM_ID_CHARS_MAX: usize = 512;

/// Says whether `text` may be an item's id.
///
/// # Errors
/// The first rule that `text` breaks.
pub fn check_item_id(text: &str) -> Result<(), NameError> {
    check_name(text, ITEM_ID_CHARS_MAX)
}
