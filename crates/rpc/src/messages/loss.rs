//! The messages by which an operator sees and accepts losses.
//!
//! Invariant: a request names everything that it accepts; it gives up nothing else.

use std::collections::BTreeMap;

use serde::de::{self, Deserializer};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::wire::{self, LossText, derived_message};
use super::{ExchangeError, Message};
use headcount_model::{CounterName, Epoch, LossId, Sequence};

/// A range of sequences of one epoch and partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The partition's number.
    pub partition: u16,
    /// The coordinator's incarnation that assigned the sequences.
    #[serde(with = "wire::epoch")]
    pub epoch: Epoch,
    /// The first sequence.
    pub first: Sequence,
    /// The last sequence.
    pub last: Sequence,
}

/// A counter that may not have everything, with the ID of its last loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncompleteCounter {
    /// Its name.
    pub name: String,
    /// The ID of its last loss. `None` if its release does not report the ID, so that the loss
    /// can't be accepted, or if the loss can't be accepted yet.
    pub loss: Option<LossId>,
    /// Why the loss can't be accepted yet, and what the operator can do.
    pub not_yet: Option<String>,
}

/// A batch that no reachable counter holds, and that may still arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotLost {
    /// The partition's number.
    pub partition: u16,
    /// The coordinator's incarnation that assigned the sequence.
    #[serde(with = "wire::epoch")]
    pub epoch: Epoch,
    /// The sequence.
    pub sequence: Sequence,
    /// Why it may still arrive, and what the operator can do.
    pub why: String,
}

/// What would be accepted now. The previous release knows all JSON fields except `loss_ids`,
/// `not_lost` and `not_yet`. A counter with a loss that can't be accepted yet is in `not_yet`
/// instead of `loss_ids`:
///
/// ```json
/// {
///   "missing": [], "incomplete": ["c1"], "loss_ids": {"c1": "00f3…"},
///   "silent": [], "not_lost": [], "not_yet": {}
/// }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PlanJson", into = "PlanJson")]
pub struct LossPlan {
    /// Sequences that no reachable counter holds.
    pub missing: Vec<Loss>,
    /// Counters that may not have everything.
    pub incomplete: Vec<IncompleteCounter>,
    /// Counters that did not answer. They may hold what is missing.
    pub silent: Vec<String>,
    /// Batches that no reachable counter holds either, but that are not lost yet.
    pub not_lost: Vec<NotLost>,
}

#[derive(Serialize, Deserialize)]
struct PlanJson {
    missing: Vec<Loss>,
    incomplete: Vec<String>,
    #[serde(default)]
    loss_ids: BTreeMap<String, LossText>,
    #[serde(default)]
    silent: Vec<String>,
    #[serde(default)]
    not_lost: Vec<NotLost>,
    #[serde(default)]
    not_yet: BTreeMap<String, String>,
}

impl From<PlanJson> for LossPlan {
    fn from(mut json: PlanJson) -> Self {
        let incomplete = json.incomplete.into_iter().map(|name| IncompleteCounter {
            loss: json.loss_ids.get(&name).map(|text| text.0),
            not_yet: json.not_yet.remove(&name),
            name,
        });
        Self {
            incomplete: incomplete.collect(),
            missing: json.missing,
            silent: json.silent,
            not_lost: json.not_lost,
        }
    }
}

impl From<LossPlan> for PlanJson {
    fn from(plan: LossPlan) -> Self {
        let named = plan.incomplete.iter();
        let loss_ids = named.filter_map(|of| Some((of.name.clone(), LossText(of.loss?))));
        let not_yet = plan.incomplete.iter();
        let not_yet = not_yet.filter_map(|of| Some((of.name.clone(), of.not_yet.clone()?)));
        Self {
            missing: plan.missing,
            loss_ids: loss_ids.collect(),
            not_yet: not_yet.collect(),
            incomplete: plan.incomplete.into_iter().map(|of| of.name).collect(),
            silent: plan.silent,
            not_lost: plan.not_lost,
        }
    }
}

/// What an operator accepts. As JSON:
///
/// ```json
/// {"missing": [], "complete": true, "loss_ids": {"c1": "00f3…"}}
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossRequest {
    /// Sequences to give up, as named in the plan.
    pub missing: Vec<Loss>,
    /// Whether counters that are not complete become complete with what they hold. A request of the
    /// previous release names none of them, and is rejected.
    pub complete: bool,
    /// Those counters, each with its loss as named in the plan.
    #[serde(default, rename = "loss_ids", with = "loss_ids")]
    pub counters: BTreeMap<CounterName, LossId>,
}

/// The outcome of a [`LossRequest`] that was accepted as a whole. The previous release reads the
/// request in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossReceipt {
    /// What was accepted.
    #[serde(flatten)]
    pub accepted: LossRequest,
    /// Counters that are complete now.
    #[serde(default)]
    pub now_complete: Vec<String>,
    /// Counters that are still not complete, each with the reason and what the operator can do.
    #[serde(default)]
    pub still_incomplete: Vec<(String, String)>,
    /// Counters in an unknown state: they did not answer in time.
    #[serde(default)]
    pub not_heard: Vec<String>,
}

/// Counters by name, each with the ID of its loss.
mod loss_ids {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        counters: &BTreeMap<CounterName, LossId>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let texts = counters
            .iter()
            .map(|(name, &loss)| (name.as_str(), LossText(loss)));
        to.collect_map(texts)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<CounterName, LossId>, D::Error> {
        let texts = BTreeMap::<String, LossText>::deserialize(from)?;
        let named = texts.into_iter().map(|(name, text)| {
            let name = CounterName::new(&name);
            let name = name.ok_or_else(|| de::Error::custom("invalid counter name"))?;
            Ok((name, text.0))
        });
        named.collect()
    }
}

derived_message!(LossPlan, LossRequest, LossReceipt);

#[cfg(test)]
#[path = "loss_tests.rs"]
mod tests;
