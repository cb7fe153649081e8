//! What nobody holds: what may be dropped from the requirement, and what only an operator may give up.
//!
//! Invariant: everything here is a pure function of what counters said. A sequence with a known successor was
//! acknowledged, since a coordinator sends the next only after it: it is never dropped. Of each epoch at most one
//! sequence, the last, can be in doubt.

use std::collections::BTreeSet;

use super::ask::Heard;
use crate::model::{
    Acceptance, Epoch, LOSSES_PER_RECORD_MAX, Partition, Requirement, Sequence, Sequences,
};

/// Sequences of one epoch and partition that no counter that was heard holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Loss {
    /// The partition.
    pub partition: Partition,
    /// The coordinator's life that made the batches.
    pub epoch: Epoch,
    /// The first sequence.
    pub first: Sequence,
    /// The last sequence.
    pub last: Sequence,
}

/// What an operator would give up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LossPlan {
    /// What is known to have been acknowledged, or shown, and nobody that was heard holds; ascending.
    pub losses: Vec<Loss>,
    /// Counters that are not sure to have everything.
    pub incomplete: Vec<String>,
    /// Named counters that did not answer behind a fresh barrier: what is missing may be with them still.
    pub silent: Vec<String>,
}

impl LossPlan {
    /// Whether all of `loss` is part of the plan.
    #[must_use]
    pub fn includes(&self, loss: &Loss) -> bool {
        self.losses.iter().any(|planned| {
            (planned.partition, planned.epoch) == (loss.partition, loss.epoch)
                && planned.first <= loss.first
                && loss.first <= loss.last
                && loss.last <= planned.last
        })
    }
}

/// All that those heard hold together.
pub(super) fn united(heard: &[Heard]) -> Requirement {
    let mut held = Requirement::default();
    for heard in heard {
        held.unite(&heard.holds);
    }
    held
}

/// What of `required` was never acknowledged and is held by nobody: the last sequence of an epoch that a counter
/// had, showed and lost before its coordinator could finish. Empty unless every one of `names` answered behind a
/// barrier that was appended after `required` was read, and is complete; none of the epoch `own`; and of an epoch
/// of which something was `dropped` before, only the same again.
pub(super) fn never_acknowledged(
    own: Epoch,
    names: &BTreeSet<&str>,
    required: &Requirement,
    heard: &[Heard],
    dropped: &Requirement,
) -> Requirement {
    let mut never = Requirement::default();
    let sure = heard
        .iter()
        .filter(|heard| heard.barriers && heard.complete);
    let sure: BTreeSet<&str> = sure.map(|heard| heard.name.as_str()).collect();
    if sure != *names {
        return never;
    }
    let held = united(heard);
    for (partition, epoch, missing) in required.minus(&held).iter() {
        let held = held.get(partition, epoch).cloned().unwrap_or_default();
        let last = missing.last();
        let before = dropped.get(partition, epoch).map_or(last, Sequences::last);
        // Nothing but the one behind all that is held, and that without a hole.
        let in_doubt = held == Sequences::up_to(last - 1) && before == last;
        if epoch != own && in_doubt {
            never.add_all(partition, epoch, missing);
        }
    }
    never
}

/// A plan as it was told to an operator.
#[derive(Debug, Default)]
pub(super) struct Planned {
    pub plan: LossPlan,
    /// All that those heard held.
    pub held: Requirement,
}

/// What is lost, as far as those heard know: all that is `required`, and all that must have come before what is
/// known, but for what somebody holds.
pub(super) fn plan(names: &BTreeSet<&str>, required: &Requirement, heard: &[Heard]) -> LossPlan {
    let held = united(heard);
    let mut known = required.clone();
    known.unite(&held);
    let mut losses = Vec::new();
    for (partition, epoch, sequences) in known.iter() {
        let held = held.get(partition, epoch).cloned().unwrap_or_default();
        let missing = Sequences::up_to(sequences.last()).minus(&held);
        losses.extend(missing.ranges().map(|(first, last)| Loss {
            partition,
            epoch,
            first,
            last,
        }));
    }
    let behind_barrier = |name: &&&str| {
        let mut those = heard.iter().filter(|heard| heard.barriers);
        !those.any(|heard| heard.name == **name)
    };
    let incomplete = heard.iter().filter(|heard| !heard.complete);
    LossPlan {
        losses,
        incomplete: incomplete.map(|heard| heard.name.clone()).collect(),
        silent: names
            .iter()
            .filter(behind_barrier)
            .map(|name| (*name).to_owned())
            .collect(),
    }
}

/// A partition's accepting records: at most [`LOSSES_PER_RECORD_MAX`] sequences each, and the last one says
/// whether counters are `complete` from there on. None when there is nothing to say.
pub(super) fn records(partition: Partition, losses: &[Loss], complete: bool) -> Vec<Acceptance> {
    let mut records = Vec::new();
    let mut record = Acceptance::default();
    let mut room = LOSSES_PER_RECORD_MAX;
    for loss in losses.iter().filter(|loss| loss.partition == partition) {
        let mut first = loss.first;
        while first <= loss.last {
            let last = loss.last.min(first.saturating_add(room - 1));
            record.losses.push((loss.epoch, first, last));
            room -= last - first + 1;
            first = last.saturating_add(1);
            if room == 0 {
                records.push(std::mem::take(&mut record));
                room = LOSSES_PER_RECORD_MAX;
            }
            if last == Sequence::MAX {
                break;
            }
        }
    }
    if !record.losses.is_empty() || (complete && records.is_empty()) {
        records.push(record);
    }
    if let Some(last) = records.last_mut() {
        last.complete = complete;
    }
    records
}

#[cfg(test)]
#[path = "losses_tests.rs"]
mod tests;
