//! Requests to a counter.
//!
//! Invariant: equal requirements of several queries in a group are sent once.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::wire::{self, DemandJson, Required, Tenant, derived_message};
use super::{ExchangeError, GROUP_EPOCHS_MAX, GROUP_QUERIES_MAX, Message};
use crate::{ListQuery, ReadRequirement};
use headcount_model::{BatchId, ItemHash, Requirement, TenantName};

/// A query for the counts of several tenants.
#[derive(Debug, Clone)]
pub struct CountsQuery {
    /// The tenants.
    pub tenants: Arc<[TenantName]>,
    /// What the answer must cover.
    pub demand: ReadRequirement,
}

/// Queries for counts that are sent together and answered one by one. In the JSON, `requirement` is
/// an index:
///
/// ```json
/// {
///   "requirements": [[{"partition": 0, "epoch": "…", "prefix": 4, "beyond": [[6, 7]]}]],
///   "queries": [
///     {
///       "tenants": ["asd"], "requirement": 0, "barriers": [], "wait_ms": 0,
///       "whole_position": false
///     }
///   ]
/// }
/// ```
#[derive(Debug, Clone, Default)]
pub struct CountsGroup(pub Vec<CountsQuery>);

#[derive(Serialize, Deserialize)]
struct GroupJson<'a> {
    #[serde(borrow)]
    requirements: Vec<Required<'a>>,
    queries: Vec<QueryJson>,
}

#[derive(Serialize, Deserialize)]
struct QueryJson {
    tenants: Vec<Tenant>,
    requirement: usize,
    #[serde(with = "wire::barriers")]
    barriers: Vec<BatchId>,
    #[serde(rename = "wait_ms", with = "wire::wait_ms")]
    wait: Duration,
    whole_position: bool,
}

impl Message for CountsGroup {
    fn encode(&self) -> Vec<u8> {
        let mut distinct: Vec<&Requirement> = Vec::new();
        let mut queries = Vec::with_capacity(self.0.len());
        for CountsQuery { tenants, demand } in &self.0 {
            let known = distinct
                .iter()
                .position(|&other| *other == demand.requirement);
            let requirement = known.unwrap_or_else(|| {
                distinct.push(&demand.requirement);
                distinct.len() - 1
            });
            queries.push(QueryJson {
                tenants: tenants.iter().cloned().map(Tenant).collect(),
                requirement,
                barriers: demand.barriers.clone(),
                wait: demand.wait,
                whole_position: demand.whole_position,
            });
        }
        let borrowed = |requirement| Required {
            requirement: Cow::Borrowed(requirement),
        };
        wire::to_json(&GroupJson {
            requirements: distinct.into_iter().map(borrowed).collect(),
            queries,
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, ExchangeError> {
        let group: GroupJson<'_> = serde_json::from_slice(bytes)?;
        if group.queries.len() > GROUP_QUERIES_MAX {
            return Err(ExchangeError::Invalid("too many queries in one request"));
        }
        let epochs: Vec<usize> = group
            .requirements
            .iter()
            .map(|each| each.requirement.iter().count())
            .collect();
        check_epochs(&epochs, group.queries.iter().map(|query| query.requirement))?;
        let query = |json: QueryJson| {
            let required = group.requirements.get(json.requirement);
            let required =
                required.ok_or(ExchangeError::Invalid("the requirement does not exist"))?;
            Ok(CountsQuery {
                tenants: json.tenants.into_iter().map(|tenant| tenant.0).collect(),
                demand: ReadRequirement {
                    requirement: required.requirement.clone().into_owned(),
                    barriers: json.barriers,
                    wait: json.wait,
                    whole_position: json.whole_position,
                },
            })
        };
        group
            .queries
            .into_iter()
            .map(query)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Rejects a group that is short to send but large in memory. `epochs` are the numbers of epochs of
/// its entries; `uses` are the indexes of the entries that are used.
pub(super) fn check_epochs(
    epochs: &[usize],
    uses: impl ExactSizeIterator<Item = usize>,
) -> Result<(), ExchangeError> {
    let alone = uses.len() <= 1;
    let used = uses.filter_map(|index| epochs.get(index));
    let total = used.fold(0_usize, |total, &epochs| total.saturating_add(epochs));
    if !alone && total > GROUP_EPOCHS_MAX {
        return Err(ExchangeError::Invalid("too many epochs in one group"));
    }
    Ok(())
}

/// A query for one item.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainsQuery {
    /// The tenant of the item.
    #[serde(with = "wire::tenant")]
    pub tenant: TenantName,
    /// The hash of the item's ID.
    #[serde(with = "wire::item_hash")]
    pub hash: ItemHash,
    /// What the answer must cover.
    #[serde(with = "DemandJson")]
    pub demand: ReadRequirement,
}

/// A query for a page of tenants.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListingQuery {
    /// The tenants to list.
    #[serde(with = "ListJson")]
    pub list: ListQuery,
    /// What the answer must cover.
    #[serde(with = "DemandJson")]
    pub demand: ReadRequirement,
}

/// The JSON of a [`ListQuery`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "ListQuery")]
struct ListJson {
    prefix: String,
    after: Option<String>,
    limit: usize,
}

derived_message!(ContainsQuery, ListingQuery);
