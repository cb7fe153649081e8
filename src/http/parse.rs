//! Request bodies to items: JSON (one item or an array) and NDJSON (an item a line).
//!
//! Invariant: all or nothing. Either every item of the body is valid and comes back, or none does and the
//! error names what is wrong and where. No input makes it panic, and what it allocates is bounded by the
//! body's size.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use thiserror::Error;

use crate::model::{ItemHash, NameError, TenantItems, TenantName, check_item_id, check_tenant};

/// At most so many invalid items are named.
pub const ERRORS_MAX: usize = 100;

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
    /// Items are invalid: the first [`ERRORS_MAX`] faults.
    #[error("{} of the items' fields are invalid", .0.len())]
    Invalid(Vec<ItemError>),
    /// There are more items than allowed.
    #[error("more than {0} items")]
    TooMany(usize),
}

/// A body's items.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Items {
    /// By tenant, in order of first appearance; each tenant once.
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
    let mut json = serde_json::Deserializer::from_slice(body);
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
    for (index, line) in body.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let mut json = serde_json::Deserializer::from_slice(line);
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

/// The error's text without its "line 1", which would mislead beside the line's index.
fn within_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column", " at column")
}

/// Gathers valid items by tenant, and faults.
struct Collector {
    items_max: usize,
    items: Items,
    places: HashMap<TenantName, usize>,
    errors: Vec<ItemError>,
    too_many: bool,
}

impl Collector {
    fn new(items_max: usize) -> Self {
        Self {
            items_max,
            items: Items::default(),
            places: HashMap::new(),
            errors: Vec::new(),
            too_many: false,
        }
    }

    /// Takes the item of `index`; `position` is its place in the body's array, if that is one.
    fn take(&mut self, index: usize, position: Option<usize>, item: &RawItem<'_>) {
        if self.items.count >= self.items_max {
            self.too_many = true;
            return;
        }
        self.items.count += 1;
        let base = position.map_or(String::new(), |position| format!("/{position}"));
        match item {
            RawItem::Other(found) => {
                let detail =
                    format!("must be an object with the fields id and tenant, not {found}");
                self.fault(index, base, detail);
            }
            RawItem::Object { id, tenant } => {
                let id = self.field(index, &base, "id", id, check_item_id);
                let tenant = self.field(index, &base, "tenant", tenant, check_tenant);
                if let (Some(id), Some(tenant)) = (id, tenant) {
                    self.add(tenant, ItemHash::of_id(id));
                }
            }
        }
    }

    fn field<'i>(
        &mut self,
        index: usize,
        base: &str,
        name: &str,
        field: &'i Field<'_>,
        check: fn(&str) -> Result<(), NameError>,
    ) -> Option<&'i str> {
        let detail = match field {
            Field::Text(text) => match check(text) {
                Ok(()) => return Some(text),
                Err(error) => format!("{name} {error}"),
            },
            Field::Missing => format!("{name} is missing"),
            Field::Repeated => format!("{name} is there more than once"),
            Field::Other(found) => format!("{name} must be a string, not {found}"),
        };
        self.fault(index, format!("{base}/{name}"), detail);
        None
    }

    fn fault(&mut self, index: usize, pointer: String, detail: String) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(ItemError {
                index,
                pointer,
                detail,
            });
        }
    }

    fn add(&mut self, tenant: &str, hash: ItemHash) {
        if !self.errors.is_empty() {
            return;
        }
        // Neighbours often share their tenant: that saves the look-up.
        if let Some(last) = self.items.tenants.last_mut()
            && last.tenant.as_str() == tenant
        {
            last.hashes.push(hash);
            return;
        }
        if let Some(&place) = self.places.get(tenant) {
            self.items.tenants[place].hashes.push(hash);
            return;
        }
        // The check above passed, so the name is valid.
        if let Ok(tenant) = TenantName::new(tenant) {
            self.places.insert(tenant.clone(), self.items.tenants.len());
            self.items.tenants.push(TenantItems {
                tenant,
                hashes: vec![hash],
            });
        }
    }

    fn finish(self) -> Result<Items, ParseError> {
        if self.errors.is_empty() {
            Ok(self.items)
        } else {
            Err(ParseError::Invalid(self.errors))
        }
    }
}

/// One element of the body, before its rules are checked.
enum RawItem<'a> {
    Object { id: Field<'a>, tenant: Field<'a> },
    Other(&'static str),
}

enum Field<'a> {
    Missing,
    Repeated,
    Text(Cow<'a, str>),
    Other(&'static str),
}

impl<'a> Field<'a> {
    fn set(&mut self, value: Self) {
        *self = match self {
            Self::Missing => value,
            _ => Self::Repeated,
        };
    }
}

/// Reads the whole body: an item, or an array of items.
struct BodySeed<'c>(&'c mut Collector);

impl<'de> DeserializeSeed<'de> for BodySeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

/// Answers for every JSON value but the ones that the visitor itself handles.
macro_rules! other_values {
    ($make:expr) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            $make(self, "a boolean")
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            $make(self, "a number")
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            $make(self, "a number")
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            $make(self, "a number")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            $make(self, "null")
        }
    };
}

impl BodySeed<'_> {
    fn single<E>(self, item: &RawItem<'_>) -> Result<(), E> {
        self.0.take(0, None, item);
        Ok(())
    }
}

impl<'de> Visitor<'de> for BodySeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an item or an array of items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(item) = array.next_element_seed(ItemSeed)? {
            self.0.take(index, Some(index), &item);
            if self.0.too_many {
                return Err(A::Error::custom("too many items"));
            }
            index += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        let item = ItemSeed.visit_map(object)?;
        self.single(&item)
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        self.single(&RawItem::Other("a string"))
    }

    other_values!(|body: Self, found| body.single(&RawItem::Other(found)));
}

struct ItemSeed;

impl<'de> DeserializeSeed<'de> for ItemSeed {
    type Value = RawItem<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<RawItem<'de>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ItemSeed {
    type Value = RawItem<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an item")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<RawItem<'de>, A::Error> {
        let mut id = Field::Missing;
        let mut tenant = Field::Missing;
        while let Some(name) = object.next_key_seed(NameSeed)? {
            match name {
                Name::Id => id.set(object.next_value_seed(FieldSeed)?),
                Name::Tenant => tenant.set(object.next_value_seed(FieldSeed)?),
                Name::Unknown => {
                    object.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(RawItem::Object { id, tenant })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<RawItem<'de>, A::Error> {
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(RawItem::Other("an array"))
    }

    fn visit_str<E>(self, _: &str) -> Result<RawItem<'de>, E> {
        Ok(RawItem::Other("a string"))
    }

    other_values!(|_, found| Ok(RawItem::Other(found)));
}

/// A field's name.
enum Name {
    Id,
    Tenant,
    Unknown,
}

struct NameSeed;

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = Name;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Name, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        Ok(match name {
            "id" => Name::Id,
            "tenant" => Name::Tenant,
            _ => Name::Unknown,
        })
    }
}

struct FieldSeed;

impl<'de> DeserializeSeed<'de> for FieldSeed {
    type Value = Field<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Field<'de>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FieldSeed {
    type Value = Field<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<'de>, E> {
        Ok(Field::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Field<'de>, E> {
        Ok(Field::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Field<'de>, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field::Other("an object"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Field<'de>, A::Error> {
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field::Other("an array"))
    }

    other_values!(|_, found| Ok(Field::Other(found)));
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
