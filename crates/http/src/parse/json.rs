//! Reads JSON in a single pass, and keeps only the two fields of each item.
//!
//! Invariant: valid JSON is read to its end, and errors of items are recorded, not returned. Only
//! invalid JSON is an error.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use super::collector::Collector;

/// One element of the body, before it is validated.
pub(super) enum RawItem<'a> {
    Object { id: Field<'a>, tenant: Field<'a> },
    Other(&'static str),
}

pub(super) enum Field<'a> {
    Missing,
    Repeated,
    Text(Cow<'a, str>),
    /// A string with one half of a surrogate pair: valid by the grammar of JSON, but not Unicode
    /// text.
    Unpaired,
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
pub(super) struct BodySeed<'c, 'r>(pub &'c mut Collector<'r>);

impl<'de> DeserializeSeed<'de> for BodySeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

/// Implements the visits of all JSON values that the visitor itself does not handle.
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

impl BodySeed<'_, '_> {
    fn single<E>(self, item: &RawItem<'_>) -> Result<(), E> {
        self.0.take(0, None, item);
        Ok(())
    }
}

impl<'de> Visitor<'de> for BodySeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an item or an array of items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(item) = array.next_element_seed(ItemSeed::<false>)? {
            self.0.take(index, Some(index), &item);
            if self.0.is_stopped() {
                return Err(A::Error::custom(STOPPED));
            }
            index += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        let item = ItemSeed::<false>.visit_map(object)?;
        self.single(&item)
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        self.single(&RawItem::Other("a string"))
    }

    other_values!(|body: Self, found| body.single(&RawItem::Other(found)));
}

/// The message of the error that stops reading early; it is never shown.
const STOPPED: &str = "no more is read";

/// Reads one item. If `UNPAIRED`, names of fields may have half of a surrogate pair; such names are
/// unknown fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct ItemSeed<const UNPAIRED: bool>;

impl<'de, const UNPAIRED: bool> DeserializeSeed<'de> for ItemSeed<UNPAIRED> {
    type Value = RawItem<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<RawItem<'de>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, const UNPAIRED: bool> Visitor<'de> for ItemSeed<UNPAIRED> {
    type Value = RawItem<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an item")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<RawItem<'de>, A::Error> {
        let mut id = Field::Missing;
        let mut tenant = Field::Missing;
        while let Some(name) = object.next_key_seed(NameSeed::<UNPAIRED>)? {
            match name {
                Name::Id => id.set(field(object.next_value()?)),
                Name::Tenant => tenant.set(field(object.next_value()?)),
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

/// The name of a field.
enum Name {
    Id,
    Tenant,
    Unknown,
}

struct NameSeed<const UNPAIRED: bool>;

impl<'de, const UNPAIRED: bool> DeserializeSeed<'de> for NameSeed<UNPAIRED> {
    type Value = Name;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Name, D::Error> {
        if UNPAIRED {
            let name = <&RawValue>::deserialize(json)?;
            let name = serde_json::from_str::<Cow<'_, str>>(name.get());
            return Ok(name.map_or(Name::Unknown, |name| Name::of(&name)));
        }
        json.deserialize_str(self)
    }
}

impl<const UNPAIRED: bool> Visitor<'_> for NameSeed<UNPAIRED> {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        Ok(Name::of(name))
    }
}

impl Name {
    fn of(name: &str) -> Self {
        match name {
            "id" => Self::Id,
            "tenant" => Self::Tenant,
            _ => Self::Unknown,
        }
    }
}

/// Converts a value of any type into a field, which keeps only strings.
fn field(value: &RawValue) -> Field<'_> {
    let text = value.get();
    let found = match text.as_bytes().first() {
        Some(b'"') => {
            let inner = text.get(1..text.len() - 1).unwrap_or_default();
            if !inner.contains('\\') {
                return Field::Text(Cow::Borrowed(inner));
            }
            // The value is JSON, so half of a surrogate pair is the only possible error.
            let text = serde_json::from_str(text).map(Cow::Owned);
            return text.map_or(Field::Unpaired, Field::Text);
        }
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    };
    Field::Other(found)
}

/// Reads a body again that has half of a surrogate pair where [`BodySeed`] requires Unicode text:
/// in the name of a field, or in place of an item. Each element is read twice, the first time only
/// to check its syntax.
pub(super) fn read_unpaired(
    text: &str,
    collector: &mut Collector<'_>,
) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(text);
    if text.trim_start().starts_with('[') {
        json.deserialize_seq(ElementsSeed(collector))?;
    } else {
        let item = unpaired_item(<&RawValue>::deserialize(&mut json)?)?;
        collector.take(0, None, &item);
    }
    json.end()
}

/// Reads an item from `json`, which has valid JSON syntax.
pub(super) fn unpaired_item(json: &RawValue) -> Result<RawItem<'_>, serde_json::Error> {
    match json.get().starts_with('"') {
        true => Ok(RawItem::Other("a string")),
        false => ItemSeed::<true>.deserialize(json),
    }
}

/// Reads the elements of an array one by one.
struct ElementsSeed<'c, 'r>(&'c mut Collector<'r>);

impl<'de> Visitor<'de> for ElementsSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(element) = array.next_element::<&RawValue>()? {
            let item = unpaired_item(element).map_err(A::Error::custom)?;
            self.0.take(index, Some(index), &item);
            if self.0.is_stopped() {
                return Err(A::Error::custom(STOPPED));
            }
            index += 1;
        }
        Ok(())
    }
}
