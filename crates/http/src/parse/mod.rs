//! Parses request bodies into items: JSON (one item or an array) and NDJSON (one item per line).
//!
//! Invariant: parsing is all or nothing, unless invalid items are left out: it returns either all
//! items of the body, which are valid, or an error that names what is wrong and where in the whole
//! body. No input causes a panic. Allocations are bounded by the size of the body, except for the
//! errors of items that are left out, for which room is requested first.

mod collector;
mod json;
#[cfg(test)]
mod tests;

use serde::de::DeserializeSeed;
use serde_json::value::RawValue;
use thiserror::Error;

use self::collector::Collector;
use self::json::{BodySeed, ItemSeed, RawItem, read_unpaired, unpaired_item};
use headcount_model::{BYTE_ORDER_MARK, TenantItems};

/// Maximum number of invalid items that the error of a rejected body names.
pub const INVALID_ITEMS_MAX: usize = 100;

/// The format of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One item, or an array of items.
    Json,
    /// One item per line, without brackets and commas.
    Ndjson,
}

/// How a body with invalid items is handled.
pub enum Invalid<'r> {
    /// The body is rejected.
    RefusesAll,
    /// The valid items are returned, with the errors of the others. The function is called before
    /// each error is kept, and returns whether there is room for that many bytes.
    IsLeftOut(&'r mut dyn FnMut(usize) -> bool),
}

/// An error of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemError {
    /// The index of the item in the array; 0 for a single item; in NDJSON, the index of its line.
    pub index: usize,
    /// A JSON Pointer (RFC 6901) to the error, within the body or, in NDJSON, within the line.
    pub pointer: String,
    /// What is wrong, and what is allowed.
    pub detail: String,
}

/// Why a body is rejected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseError {
    /// The body is not valid JSON or NDJSON.
    #[error("{detail}")]
    Malformed {
        /// In NDJSON, the index of the line.
        line: Option<usize>,
        /// What is wrong, and where.
        detail: String,
    },
    /// Some items are invalid: the errors of the first [`INVALID_ITEMS_MAX`] invalid items.
    #[error("the items have {} errors", .0.len())]
    Invalid(Vec<ItemError>),
    /// There are more items than allowed.
    #[error("the body has more than {0} items")]
    TooMany(usize),
    /// There is no room for the errors of the invalid items.
    #[error("no room for the errors of the invalid items")]
    NoRoom,
}

/// A body's items.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Items {
    /// The valid items by tenant, in ascending order. Each tenant occurs once.
    pub tenants: Vec<TenantItems>,
    /// The number of these items, including duplicates.
    pub count: usize,
    /// The errors of the items that were left out, in their order; see [`Invalid::IsLeftOut`].
    pub left_out: Vec<ItemError>,
}

/// Parses a JSON body: one item, or an array of at most `items_max` items.
///
/// # Errors
/// [`ParseError`]. The whole body is read first: malformed JSON takes precedence over invalid
/// items.
pub fn parse_json(body: &[u8], items_max: usize) -> Result<Items, ParseError> {
    parse(Format::Json, body, items_max, Invalid::RefusesAll)
}

/// Parses an NDJSON body: one item per line, at most `items_max` items. Blank lines are skipped.
///
/// # Errors
/// [`ParseError`]. The whole body is read first: malformed JSON takes precedence over invalid
/// items.
pub fn parse_ndjson(body: &[u8], items_max: usize) -> Result<Items, ParseError> {
    parse(Format::Ndjson, body, items_max, Invalid::RefusesAll)
}

/// Parses a body of at most `items_max` items, including invalid ones. With
/// [`Invalid::IsLeftOut`], a line of NDJSON that is not JSON is an invalid item.
///
/// # Errors
/// [`ParseError`]. The whole body is read first: malformed JSON takes precedence over invalid
/// items.
pub fn parse(
    format: Format,
    body: &[u8],
    items_max: usize,
    invalid: Invalid<'_>,
) -> Result<Items, ParseError> {
    let mut collector = Collector::new(items_max, invalid);
    let text = body
        .strip_prefix(BYTE_ORDER_MARK.as_bytes())
        .unwrap_or(body);
    let skipped = body.len() - text.len();
    match (std::str::from_utf8(text), format) {
        (Ok(text), Format::Json) => read_json(text, skipped, &mut collector)?,
        (Ok(text), Format::Ndjson) => {
            for (index, line) in text.split('\n').enumerate() {
                read_line(index, line, skipped, &mut collector)?;
            }
        }
        (Err(_), Format::Ndjson) if collector.leaves_out() => {
            read_bytes(text, skipped, &mut collector)?;
        }
        // Ignored fields must be UTF-8 as well.
        (Err(error), _) => {
            return Err(ParseError::Malformed {
                line: None,
                detail: not_utf8(skipped + error.valid_up_to()),
            });
        }
    }
    collector.finish()
}

/// Reads a JSON body, after the first `skipped` bytes of it.
fn read_json(text: &str, skipped: usize, collector: &mut Collector<'_>) -> Result<(), ParseError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let seed = BodySeed(collector);
    let mut parsed = seed.deserialize(&mut json).and_then(|()| json.end());
    if parsed.is_err() && !collector.is_stopped() && may_be_unpaired(text) {
        collector.start_again();
        parsed = read_unpaired(text, collector);
    }
    match parsed {
        Err(error) if !collector.is_stopped() => {
            let (what, line, column) = placed(&error, skipped);
            Err(ParseError::Malformed {
                line: None,
                detail: match line {
                    0 => what,
                    _ => format!("{what} at line {line} column {column}"),
                },
            })
        }
        // If the collector has stopped, `finish` returns the error.
        _ => Ok(()),
    }
}

/// Reads the line with this index. `skipped` is the number of bytes of the body that were skipped
/// before the first line.
fn read_line(
    index: usize,
    line: &str,
    skipped: usize,
    collector: &mut Collector<'_>,
) -> Result<(), ParseError> {
    if collector.is_stopped() || line.bytes().all(|byte| byte.is_ascii_whitespace()) {
        return Ok(());
    }
    let mut json = serde_json::Deserializer::from_str(line);
    let parsed = ItemSeed::<false>.deserialize(&mut json).and_then(|item| {
        json.end()?;
        Ok(item)
    });
    let error = match parsed.or_else(|error| unpaired_line(line).ok_or(error)) {
        Ok(item) => {
            collector.take(index, None, &item);
            return Ok(());
        }
        Err(error) => error,
    };
    // The line number in the error is always 1, which would be confusing next to the line's index.
    let (what, _, column) = placed(&error, if index == 0 { skipped } else { 0 });
    let what = format!("{what} at column {column}");
    if collector.leaves_out() {
        collector.take_broken(index, format!("is not JSON: {what}"));
        return Ok(());
    }
    Err(ParseError::Malformed {
        line: Some(index),
        detail: format!("line index {index}: {what}"),
    })
}

/// Returns the item of a line in which a string has half of a surrogate pair, if the line is
/// otherwise JSON.
fn unpaired_line(line: &str) -> Option<RawItem<'_>> {
    let json: Option<&RawValue> = may_be_unpaired(line)
        .then(|| serde_json::from_str(line).ok())
        .flatten();
    json.and_then(|json| unpaired_item(json).ok())
}

/// Whether half of a surrogate pair may be the only reason why `json` could not be read.
fn may_be_unpaired(json: &str) -> bool {
    json.contains("\\u")
}

/// Reads lines, and leaves out those that are not UTF-8.
fn read_bytes(
    text: &[u8],
    skipped: usize,
    collector: &mut Collector<'_>,
) -> Result<(), ParseError> {
    let mut begin = skipped;
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        match std::str::from_utf8(line) {
            Ok(line) => read_line(index, line, skipped, collector)?,
            Err(error) if !collector.is_stopped() => {
                collector.take_broken(index, not_utf8(begin + error.valid_up_to()));
            }
            Err(_) => break,
        }
        begin += line.len() + 1;
    }
    Ok(())
}

fn not_utf8(at: usize) -> String {
    format!("invalid UTF-8 at byte {at}")
}

/// Returns what is wrong, and its line and column in the body; both are 0 if unknown.
fn placed(error: &serde_json::Error, skipped: usize) -> (String, usize, usize) {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let place = format!(" at line {line} column {column}");
    let what = text.strip_suffix(&place).unwrap_or(&text).to_owned();
    (
        what,
        line,
        if line == 1 { column + skipped } else { column },
    )
}
