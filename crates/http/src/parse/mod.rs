//! Request bodies to items: JSON (one item or an array) and NDJSON (an item a line).
//!
//! Invariant: all or nothing, unless what is valid was asked for: either every item of the body is
//! valid and comes back, or none does and the error names what is wrong and where, as a place in
//! the whole body. No input makes it panic, and what it allocates is bounded by the body's size;
//! for the faults of items that are left out it asks first.

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

/// The faults of so many invalid items are named, where they refuse the body.
pub const INVALID_ITEMS_MAX: usize = 100;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One item, or an array of items.
    Json,
    /// An item a line, without brackets and commas.
    Ndjson,
}

/// What comes of a body with invalid items.
pub enum Invalid<'r> {
    /// None of its items comes back.
    RefusesAll,
    /// The others come back, with the faults of these. Before each fault it is asked whether there
    /// is room for so many bytes.
    IsLeftOut(&'r mut dyn FnMut(usize) -> bool),
}

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
    /// There is no room for the faults of so many items.
    #[error("no room for the faults of so many items")]
    NoRoom,
}

/// A body's items.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Items {
    /// By tenant, in ascending order; each tenant once.
    pub tenants: Vec<TenantItems>,
    /// How many these are, repetitions included.
    pub count: usize,
    /// The faults of all others, in their order; none unless that was asked for.
    pub left_out: Vec<ItemError>,
}

/// Parses a JSON body: one item, or an array of at most `items_max`.
///
/// # Errors
/// [`ParseError`]; the whole body is read first, so malformed JSON wins over invalid items.
pub fn parse_json(body: &[u8], items_max: usize) -> Result<Items, ParseError> {
    parse(Format::Json, body, items_max, Invalid::RefusesAll)
}

/// Parses NDJSON: one item a line, blank lines skipped, at most `items_max` items.
///
/// # Errors
/// [`ParseError`]; the whole body is read first, so malformed JSON wins over invalid items.
pub fn parse_ndjson(body: &[u8], items_max: usize) -> Result<Items, ParseError> {
    parse(Format::Ndjson, body, items_max, Invalid::RefusesAll)
}

/// Parses a body of at most `items_max` items, invalid ones included. A line of NDJSON that is no
/// JSON is an invalid item where those are left out.
///
/// # Errors
/// [`ParseError`]; the whole body is read first, so malformed JSON wins over invalid items.
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
        // An ignored field must be UTF-8 too.
        (Err(error), _) => {
            return Err(ParseError::Malformed {
                line: None,
                detail: not_utf8(skipped + error.valid_up_to()),
            });
        }
    }
    collector.finish()
}

/// Reads JSON before which `skipped` bytes of the body were skipped.
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
        // The collector says so at its end.
        _ => Ok(()),
    }
}

/// Reads the line of `index`; `skipped` bytes of the body were skipped before the first.
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
    // Beside the line's index its number, 1, would mislead.
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

/// The item of a line in which a text has half of a surrogate pair, if it is JSON otherwise.
fn unpaired_line(line: &str) -> Option<RawItem<'_>> {
    let json: Option<&RawValue> = may_be_unpaired(line)
        .then(|| serde_json::from_str(line).ok())
        .flatten();
    json.and_then(|json| unpaired_item(json).ok())
}

/// Whether `json`, which could not be read, may be such for half of a surrogate pair alone.
fn may_be_unpaired(json: &str) -> bool {
    json.contains("\\u")
}

/// Reads lines of which some are not UTF-8: these are left out.
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
    format!("it is not UTF-8 at byte {at}")
}

/// What is wrong, and the line and column of the body where it is; 0 and 0 where that is not known.
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
