//! Answers of a counter.
//!
//! Invariant: an answer has a count for each partition that it reports as held.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::requests::check_epochs;
use super::wire::{self, CoverJson, QueryErrorJson};
use super::{ExchangeError, Message};
use crate::{Contains, Counts, Coverage, Listing, QueryError, Status};
use headcount_model::TenantName;

/// How many of the previous covers are compared to find an equal one: queries that are answered
/// together usually see the same commit.
const COVERS_LOOKED_AT: usize = 8;

/// The answers to a [`CountsGroup`](super::CountsGroup), in its order. In the JSON, `cover` is an
/// index:
///
/// ```json
/// {
///   "covers": [{"life": 7, "barriers": true, "partitions": [[0, true]], "covered": []}],
///   "answers": [{"counts": {"cover": 0, "counts": [[3]]}}, {"error": {"store": "…"}}]
/// }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CountsAnswers(pub Vec<Result<Counts, QueryError>>);

#[derive(Serialize, Deserialize)]
struct AnswersJson<'a> {
    #[serde(borrow)]
    covers: Vec<Covering<'a>>,
    answers: Vec<AnswerJson<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Covering<'a> {
    #[serde(
        serialize_with = "CoverJson::serialize",
        deserialize_with = "cover_from"
    )]
    cover: Cow<'a, Coverage>,
}

fn cover_from<'de, D: Deserializer<'de>>(from: D) -> Result<Cow<'static, Coverage>, D::Error> {
    CoverJson::deserialize(from).map(Cow::Owned)
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AnswerJson<'a> {
    Counts {
        cover: usize,
        counts: Cow<'a, [Vec<u64>]>,
    },
    Error(#[serde(with = "QueryErrorJson")] QueryError),
}

impl Message for CountsAnswers {
    fn encode(&self) -> Vec<u8> {
        let mut covers: Vec<&Coverage> = Vec::new();
        let mut answers = Vec::with_capacity(self.0.len());
        for answer in &self.0 {
            answers.push(match answer {
                Ok(Counts { cover, counts }) => {
                    let recent = covers.iter().enumerate().rev().take(COVERS_LOOKED_AT);
                    let mut equal = recent.filter(|(_, other)| **other == cover);
                    let known = equal.next().map(|(index, _)| index);
                    AnswerJson::Counts {
                        cover: known.unwrap_or_else(|| {
                            covers.push(cover);
                            covers.len() - 1
                        }),
                        counts: Cow::Borrowed(counts),
                    }
                }
                Err(busy @ QueryError::Busy) => {
                    AnswerJson::Error(QueryError::Unreachable(busy.to_string()))
                }
                Err(error) => AnswerJson::Error(error.clone()),
            });
        }
        let borrowed = |cover| Covering {
            cover: Cow::Borrowed(cover),
        };
        wire::to_json(&AnswersJson {
            covers: covers.into_iter().map(borrowed).collect(),
            answers,
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, ExchangeError> {
        let AnswersJson { covers, answers } = serde_json::from_slice(bytes)?;
        let epochs: Vec<usize> = covers
            .iter()
            .map(|each| each.cover.covered.iter().count())
            .collect();
        let used = answers.iter().map(|answer| match answer {
            AnswerJson::Counts { cover, .. } => *cover,
            AnswerJson::Error(_) => usize::MAX,
        });
        check_epochs(&epochs, used)?;
        let answer = |json: AnswerJson<'_>| match json {
            AnswerJson::Error(error) => Ok(Err(error)),
            AnswerJson::Counts { cover, counts } => {
                let cover = covers
                    .get(cover)
                    .ok_or(ExchangeError::Invalid("the cover does not exist"))?;
                let cover = cover.cover.clone().into_owned();
                let counts = counts.into_owned();
                check_counts(&cover, counts.iter())?;
                Ok(Ok(Counts { cover, counts }))
            }
        };
        answers
            .into_iter()
            .map(answer)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn check_counts<'a>(
    cover: &Coverage,
    mut counts: impl Iterator<Item = &'a Vec<u64>>,
) -> Result<(), ExchangeError> {
    if counts.all(|each| each.len() == cover.partitions.len()) {
        return Ok(());
    }
    Err(ExchangeError::Invalid(
        "the counts do not match the partitions",
    ))
}

/// The JSON of a [`Contains`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "Contains")]
struct MembershipJson {
    #[serde(with = "CoverJson")]
    cover: Coverage,
    counted: bool,
}

impl Message for Contains {
    fn encode(&self) -> Vec<u8> {
        wire::encode_as(self, |value, to| MembershipJson::serialize(value, to))
    }

    fn decode(bytes: &[u8]) -> Result<Self, ExchangeError> {
        wire::decode_as(bytes, |from| MembershipJson::deserialize(from))
    }
}

/// The JSON of a [`Listing`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "Listing")]
struct ListingJson {
    #[serde(with = "CoverJson")]
    cover: Coverage,
    #[serde(with = "rows")]
    tenants: Vec<(TenantName, Vec<u64>)>,
    more: bool,
}

/// Tenants with their counts.
mod rows {
    use super::*;
    use crate::messages::wire::Tenant;

    pub(super) fn serialize<S: Serializer>(
        rows: &[(TenantName, Vec<u64>)],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(rows.iter().map(|(name, counts)| (name.as_str(), counts)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<(TenantName, Vec<u64>)>, D::Error> {
        let rows = Vec::<(Tenant, Vec<u64>)>::deserialize(from)?.into_iter();
        Ok(rows.map(|(tenant, counts)| (tenant.0, counts)).collect())
    }
}

impl Message for Listing {
    fn encode(&self) -> Vec<u8> {
        wire::encode_as(self, |value, to| ListingJson::serialize(value, to))
    }

    fn decode(bytes: &[u8]) -> Result<Self, ExchangeError> {
        let listing = wire::decode_as(bytes, |from| ListingJson::deserialize(from))?;
        check_counts(
            &listing.cover,
            listing.tenants.iter().map(|(_, counts)| counts),
        )?;
        Ok(listing)
    }
}

/// The JSON of a [`Status`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "Status")]
struct StatusJson {
    name: String,
    complete: bool,
    tenants: u64,
    items: u64,
    epochs: u64,
    last_applied: Option<(String, u64)>,
    holes: u64,
    lag_ms: u64,
    redeliveries: u64,
    snapshots: u64,
    forks: u64,
    disk_bytes: u64,
    memory_bytes: u64,
    runs: u64,
    /// Release 0.1.0 does not know this field and ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    doubt: Option<String>,
    /// Release 0.1.0 does not know this field and ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Message for Status {
    fn encode(&self) -> Vec<u8> {
        wire::encode_as(self, |value, to| StatusJson::serialize(value, to))
    }

    fn decode(bytes: &[u8]) -> Result<Self, ExchangeError> {
        wire::decode_as(bytes, |from| StatusJson::deserialize(from))
    }
}
