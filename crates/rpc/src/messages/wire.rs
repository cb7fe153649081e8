//! The JSON representation of the domain's values.
//!
//! Invariant: a value is rejected if its own type would not allow it.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde::de::{self, Deserializer, Visitor};
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};

use super::ExchangeError;
use crate::{Coverage, QueryError, ReadRequirement};
use headcount_model::{
    BatchId, Epoch, ITEM_HASH_BYTES, ItemHash, LossId, Partition, Requirement, Sequence, Sequences,
    TenantName,
};

/// Encodes a value that JSON can always represent, so the empty fallback is never used.
pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// Implements messages with derived JSON.
macro_rules! derived_message {
    ($($message:ty),+) => {$(
        impl Message for $message {
            fn encode(&self) -> Vec<u8> {
                $crate::messages::wire::to_json(self)
            }

            fn decode(bytes: &[u8]) -> Result<Self, ExchangeError> {
                Ok(serde_json::from_slice(bytes)?)
            }
        }
    )+};
}
pub(super) use derived_message;

/// Encodes a message of a domain type, given the type that describes its JSON.
pub(super) fn encode_as<T>(
    value: &T,
    serialize: impl FnOnce(
        &T,
        &mut serde_json::Serializer<&mut Vec<u8>>,
    ) -> Result<(), serde_json::Error>,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let done = serialize(value, &mut serde_json::Serializer::new(&mut bytes));
    done.map(|()| bytes).unwrap_or_default()
}

/// The inverse of [`encode_as`].
pub(super) fn decode_as<'a, T>(
    bytes: &'a [u8],
    deserialize: impl FnOnce(
        &mut serde_json::Deserializer<serde_json::de::SliceRead<'a>>,
    ) -> Result<T, serde_json::Error>,
) -> Result<T, ExchangeError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Parses a string with the given function.
struct Text<F>(&'static str, F);

impl<T, F: Fn(&str) -> Option<T>> Visitor<'_> for Text<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.1)(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// An epoch as 32 hex digits.
pub(super) mod epoch {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(epoch: &Epoch, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(epoch)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Epoch, D::Error> {
        from.deserialize_str(Text("32 hex digits in lower case", |text: &str| {
            let mut bytes = [0; 16];
            let length = HEXLOWER.decode_len(text.len()).ok()?;
            let exact =
                length == bytes.len() && HEXLOWER.decode_mut(text.as_bytes(), &mut bytes).is_ok();
            exact.then(|| Epoch(u128::from_be_bytes(bytes)))
        }))
    }
}

/// An item's hash as 24 hex digits.
pub(super) mod item_hash {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(hash: &ItemHash, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&HEXLOWER.encode(&hash.0))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ItemHash, D::Error> {
        from.deserialize_str(Text("24 hex digits in lower case", |text: &str| {
            let mut bytes = [0; ITEM_HASH_BYTES];
            let length = HEXLOWER.decode_len(text.len()).ok()?;
            let exact =
                length == bytes.len() && HEXLOWER.decode_mut(text.as_bytes(), &mut bytes).is_ok();
            exact.then_some(ItemHash(bytes))
        }))
    }
}

/// A loss ID as 16 hex digits. As a number, it would be corrupted by readers that treat all numbers
/// as floating point.
#[derive(Clone, Copy)]
pub(super) struct LossText(pub LossId);

impl Serialize for LossText {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for LossText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Text("16 hex digits in lower case", |text: &str| {
            let mut bytes = [0; 8];
            let length = HEXLOWER.decode_len(text.len()).ok()?;
            let exact =
                length == bytes.len() && HEXLOWER.decode_mut(text.as_bytes(), &mut bytes).is_ok();
            exact.then(|| Self(LossId(u64::from_be_bytes(bytes))))
        }))
    }
}

/// An optional loss ID.
pub(super) mod loss {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        loss: &Option<LossId>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        loss.map(LossText).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<LossId>, D::Error> {
        Ok(Option::<LossText>::deserialize(from)?.map(|text| text.0))
    }
}

/// A wait in milliseconds.
pub(super) mod wait_ms {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(wait: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

/// A tenant's name.
#[derive(Clone)]
pub(super) struct Tenant(pub TenantName);

impl Serialize for Tenant {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for Tenant {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = |text: &str| TenantName::new(text).ok().map(Self);
        from.deserialize_str(Text("a tenant's name", name))
    }
}

/// A tenant's name in a field.
pub(super) mod tenant {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(name: &TenantName, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(name.as_str())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<TenantName, D::Error> {
        Tenant::deserialize(from).map(|tenant| tenant.0)
    }
}

/// One epoch's part of a requirement.
#[derive(Serialize, Deserialize)]
struct Part<'a> {
    partition: u16,
    #[serde(with = "epoch")]
    epoch: Epoch,
    prefix: Sequence,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    beyond: Cow<'a, [(Sequence, Sequence)]>,
}

/// A requirement, as a list of the parts of its epochs.
pub(super) mod requirement {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        requirement: &Requirement,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let mut list = to.serialize_seq(None)?;
        for (partition, epoch, sequences) in requirement.iter() {
            list.serialize_element(&Part {
                partition: partition.0,
                epoch,
                prefix: sequences.prefix(),
                beyond: Cow::Borrowed(sequences.beyond()),
            })?;
        }
        list.end()
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Requirement, D::Error> {
        let mut requirement = Requirement::default();
        for part in Vec::<Part<'_>>::deserialize(from)? {
            let sequences = Sequences::from_parts(part.prefix, part.beyond.into_owned());
            let sequences = sequences
                .ok_or_else(|| de::Error::custom("ranges of sequences touch or overlap"))?;
            requirement.add_all(Partition(part.partition), part.epoch, &sequences);
        }
        Ok(requirement)
    }
}

/// A requirement in a list.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Required<'a> {
    #[serde(
        serialize_with = "requirement::serialize",
        deserialize_with = "deserialize_owned"
    )]
    pub requirement: Cow<'a, Requirement>,
}

fn deserialize_owned<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Cow<'static, Requirement>, D::Error> {
    requirement::deserialize(from).map(Cow::Owned)
}

/// Barriers, as the IDs of their batches.
pub(super) mod barriers {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Barrier {
        partition: u16,
        #[serde(with = "epoch")]
        epoch: Epoch,
        sequence: Sequence,
    }

    pub(crate) fn serialize<S: Serializer>(barriers: &[BatchId], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(barriers.iter().map(|id| Barrier {
            partition: id.partition.0,
            epoch: id.epoch,
            sequence: id.sequence,
        }))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<BatchId>, D::Error> {
        let barriers = Vec::<Barrier>::deserialize(from)?.into_iter();
        let id = |barrier: Barrier| BatchId {
            partition: Partition(barrier.partition),
            epoch: barrier.epoch,
            sequence: barrier.sequence,
        };
        Ok(barriers.map(id).collect())
    }
}

/// The JSON of a [`ReadRequirement`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "ReadRequirement")]
pub(super) struct DemandJson {
    #[serde(with = "requirement")]
    requirement: Requirement,
    #[serde(with = "barriers")]
    barriers: Vec<BatchId>,
    #[serde(rename = "wait_ms", with = "wait_ms")]
    wait: Duration,
    whole_position: bool,
}

/// The JSON of a [`Coverage`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "Coverage")]
pub(super) struct CoverJson {
    life: u64,
    barriers: bool,
    #[serde(with = "partitions")]
    partitions: Vec<(Partition, bool)>,
    #[serde(with = "requirement")]
    covered: Requirement,
    /// Release 0.1.0 does not know this field and ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "loss")]
    loss: Option<LossId>,
}

/// Partitions, ascending, each with whether it is covered.
mod partitions {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        all: &[(Partition, bool)],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(all.iter().map(|&(partition, covers)| (partition.0, covers)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<(Partition, bool)>, D::Error> {
        let all = Vec::<(u16, bool)>::deserialize(from)?;
        if !all.is_sorted_by(|(one, _), (next, _)| one < next) {
            return Err(de::Error::custom("partitions are not ascending"));
        }
        let named = |(number, covers)| (Partition(number), covers);
        Ok(all.into_iter().map(named).collect())
    }
}

/// The JSON of a [`QueryError`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "QueryError", rename_all = "snake_case")]
pub(super) enum QueryErrorJson {
    /// Sent as unreachable: a release that does not know this error treats it as unreachable as
    /// well.
    #[serde(skip)]
    Busy,
    Unreachable(String),
    Store(String),
}
