//! Reading JSON once, without keeping more of it than an item's two fields.
//!
//! Invariant: whatever is JSON is read to its end, with faults noted instead of raised; only what is not JSON
//! is an error.

use std::borrow::Cow;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use super::collector::Collector;

/// One element of the body, before its rules are checked.
pub(super) enum RawItem<'a> {
    Object { id: Field<'a>, tenant: Field<'a> },
    Other(&'static str),
}

pub(super) enum Field<'a> {
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
pub(super) struct BodySeed<'c>(pub &'c mut Collector);

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

/// Reads one item.
pub(super) struct ItemSeed;

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
                Name::Id => id.set(field(object.next_value()?).map_err(A::Error::custom)?),
                Name::Tenant => tenant.set(field(object.next_value()?).map_err(A::Error::custom)?),
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

/// Takes a value of any type, whatever is in it, and keeps it if it is a string.
fn field(value: &RawValue) -> Result<Field<'_>, serde_json::Error> {
    let text = value.get();
    let found = match text.as_bytes().first() {
        Some(b'"') => {
            let inner = text.get(1..text.len() - 1).unwrap_or_default();
            return Ok(Field::Text(if inner.contains('\\') {
                Cow::Owned(serde_json::from_str(text)?)
            } else {
                Cow::Borrowed(inner)
            }));
        }
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    };
    Ok(Field::Other(found))
}
