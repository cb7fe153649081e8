//! Request bodies to items: JSON (one item or an array) and NDJSON (an item a line).
//!
//! Invariant: all or nothing. Either every item of the body is valid and comes back, or none does and the
//! error names what is wrong and where. No input makes it panic, and what it allocates is bounded by the
//! body's size.

mod collector;
mod json;
#[cfg(test)]
mod tests;

use serde::de::DeserializeSeed;
use thiserror::Error;

use self::collector::Collector;
use self::json::{BodySeed, ItemSeed};
use crate::model::TenantItems;

/// The faults of so many invalid items are named.
pub const INVALID_ITEMS_MAX: usize = 100;

/// What is wrong with one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemError {
    /// Which item: its index in the array, 0 for a single item, the index of its line in NDJSON.
    pub index: usize,
    /// A JSON Pointer (RFC 6901) to the fault: into the body, or into the line in NDJSON.
    pub pointer: String,
    /// What is wrong, and what is allowed.
    pub detail: String,
}

/// Why a body's items are not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseError {
    /// The body is not JSON, or not of a form that has items.
    #[error("{detail}")]
    Malformed {
        /// In NDJSON, the index of the line.
        line: Option<usize>,
        /// What is wrong and where.
        detail: String,
    },
    /// Items are invalid: the faults of the first [`INVALID_ITEMS_MAX`].
    #[error("{} of the items' fields are invalid", .0.len())]
    Invalid(Vec<ItemError>),
    /// There are more items than allowed.
    #[error("more than {0} items")]
    TooMany(usize),
}

/// A body's items.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Items {
    /// By tenant, in ascending order; each tenant once.
    pub tenants: Vec<TenantItems>,
    /// How many there were, repetitions included.
    pub count: usize,
}

/// Parses a JSON body: one item, or an array of at most `items_max`.
///
/// # Errors
/// [`ParseError`]; the whole body is read first, so malformed JSON wins over invalid items.
pub fn parse_json(body: &[u8], items_max: usize) -> Result<Items, ParseError> {
    let mut collector = Collector::new(items_max);
    let mut json = serde_json::Deserializer::from_str(utf8(body)?);
    let seed = BodySeed(&mut collector);
    let parsed = seed.deserialize(&mut json).and_then(|()| json.end());
    if collector.too_many {
        return Err(ParseError::TooMany(items_max));
    }
    parsed.map_err(|error| ParseError::Malformed {
        line: None,
        detail: error.to_string(),
    })?;
    collector.finish()
}

/// Parses NDJSON: one item a line, blank lines skipped, at most `items_max` items.
///
/// # Errors
/// [`ParseError`]; the whole body is read first, so malformed JSON wins over invalid items.
pub fn parse_ndjson(body: &[u8], items_max: usize) -> Result<Items, ParseError> {
    let mut collector = Collector::new(items_max);
    for (index, line) in utf8(body)?.split('\n').enumerate() {
        if line.bytes().all(|byte| byte.is_ascii_whitespace()) {
            continue;
        }
        let mut json = serde_json::Deserializer::from_str(line);
        let parsed = ItemSeed.deserialize(&mut json).and_then(|item| {
            json.end()?;
            Ok(item)
        });
        match parsed {
            Ok(item) => collector.take(index, None, &item),
            Err(error) => {
                return Err(ParseError::Malformed {
                    line: Some(index),
                    detail: format!("line index {index}: {}", within_line(&error)),
                });
            }
        }
        if collector.too_many {
            return Err(ParseError::TooMany(items_max));
        }
    }
    collector.finish()
}

/// The body as text: an ignored field must be UTF-8 too.
fn utf8(body: &[u8]) -> Result<&str, ParseError> {
    std::str::from_utf8(body).map_err(|error| ParseError::Malformed {
        line: None,
        detail: format!("it is not UTF-8 at byte {}", error.valid_up_to()),
    })
}

/// The error's text without its "line 1", which would mislead beside the line's index.
fn within_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column", " at column")
}
