//! Batches that no counter holds: which of them can be dropped from the read requirement, and which
//! can only be accepted as lost by an operator.
//!
//! Invariant: everything here is a pure function of what counters reported. A sequence with a known
//! successor was acknowledged, because a coordinator appends the next batch only after that; it is
//! never dropped. In each epoch at most one sequence, the last, can be in doubt.

use std::collections::BTreeSet;
use std::fmt;

use super::fanout::Heard;
use headcount_model::{
    Acceptance, BatchId, COMPLETED_PER_RECORD_MAX, Completes, CounterName, Epoch,
    LOSSES_PER_RECORD_MAX, LossId, NamedLosses, Partition, Requirement, Sequence, Sequences,
};

/// Sequences of one epoch and partition that no answering counter holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Loss {
    /// Partition of the batches.
    pub partition: Partition,
    /// Epoch of the batches: the incarnation of the coordinator that appended them.
    pub epoch: Epoch,
    /// The first sequence.
    pub first: Sequence,
    /// The last sequence.
    pub last: Sequence,
}

/// A counter that may lack batches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Incomplete {
    /// Its name.
    pub name: String,
    /// Id of its last loss; `None` if its release does not report one, so that it cannot be
    /// accepted.
    pub loss: Option<LossId>,
    /// Why it cannot be accepted yet, and what the operator must do.
    pub not_yet: Option<String>,
}

impl Incomplete {
    /// Whether it may be declared complete, with what it holds, after this loss.
    fn may_complete(&self, name: &CounterName, loss: LossId) -> bool {
        self.name == name.as_str() && self.loss == Some(loss) && self.not_yet.is_none()
    }
}

/// A batch that no counter holds and that may still arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotLost {
    /// The batch: the last one of its epoch, as far as known.
    pub id: BatchId,
    /// Why it may still arrive, and what the operator must do.
    pub why: String,
}

/// What an operator can accept as lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LossPlan {
    /// Batches that were acknowledged or shown and that no answering counter holds, in ascending
    /// order.
    pub losses: Vec<Loss>,
    /// Counters that may lack batches, by name.
    pub incomplete: Vec<Incomplete>,
    /// Known counters that did not answer behind a new barrier. They may still hold missing
    /// batches.
    pub silent: Vec<String>,
    /// Batches that no answering counter holds but that are not lost yet.
    pub not_lost: Vec<NotLost>,
}

impl LossPlan {
    /// Whether the plan allows the counter `name` to be declared complete after this loss.
    pub(super) fn completes(&self, name: &CounterName, loss: LossId) -> bool {
        let mut incomplete = self.incomplete.iter();
        incomplete.any(|of| of.may_complete(name, loss))
    }

    /// Whether the plan includes all of `loss`.
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

/// The union of what the answering counters hold.
pub(super) fn united(heard: &[Heard]) -> Requirement {
    let mut held = Requirement::default();
    for heard in heard {
        held.unite(&heard.holds);
    }
    held
}

/// The part of `required` that was never acknowledged and that no counter holds: the last sequence
/// of an epoch, which a counter held, showed and lost before its coordinator could finish the
/// append. It is empty unless every counter in `names` is complete and answered behind a barrier
/// that was appended after `required` was read. It includes nothing of the epoch `own`, and nothing
/// of an epoch for which `may_come` is true. If a sequence of an epoch was `dropped` before, only
/// the same sequence of that epoch can be included again.
pub(super) fn never_acknowledged(
    own: Epoch,
    names: &BTreeSet<&str>,
    required: &Requirement,
    heard: &[Heard],
    dropped: &Requirement,
    may_come: impl Fn(Epoch) -> bool,
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
        // Only the sequence that directly follows everything held, where that has no hole.
        let in_doubt = held == Sequences::up_to(last - 1) && before == last;
        if epoch != own && in_doubt && !may_come(epoch) {
            never.add_all(partition, epoch, missing);
        }
    }
    never
}

/// A plan, as shown to an operator.
#[derive(Debug, Default)]
pub(super) struct Planned {
    pub plan: LossPlan,
    /// The union of what the answering counters held.
    pub held: Requirement,
    /// The losses that are the last batch of their epoch.
    pub lasts: BTreeSet<BatchId>,
}

/// Input of a plan.
pub(super) struct Known<'a> {
    /// The names of all known counters.
    pub names: &'a BTreeSet<&'a str>,
    /// What exact answers must cover.
    pub required: &'a Requirement,
    /// What the counters reported behind a first barrier.
    pub first: &'a [Heard],
    /// What they reported behind a second, later barrier.
    pub heard: &'a [Heard],
}

/// Determines what is lost, as far as the answering counters know: everything that is required, and
/// everything that must precede what is known, except what some counter holds. The last batch of an
/// epoch is not lost while `may_come` returns a reason. A counter cannot be declared complete yet
/// if `passes_by` returns a coordinator that does not publish to its queue, or if it lacks what
/// another counter holds.
pub(super) fn plan(
    known: &Known<'_>,
    may_come: impl Fn(BatchId) -> Option<String>,
    passes_by: impl Fn(&str) -> Option<String>,
) -> Planned {
    let &Known {
        names,
        required,
        first,
        heard,
    } = known;
    let held = united(heard);
    let mut known = required.clone();
    known.unite(&held);
    let (mut losses, mut lasts, mut not_lost) = (Vec::new(), BTreeSet::new(), Vec::new());
    for (partition, epoch, sequences) in known.iter() {
        let held = held.get(partition, epoch).cloned().unwrap_or_default();
        let id = BatchId {
            partition,
            epoch,
            sequence: sequences.last(),
        };
        let mut lost_up_to = id.sequence;
        if id.sequence > 0 && !held.contains(id.sequence) {
            match may_come(id) {
                Some(why) => {
                    not_lost.push(NotLost { id, why });
                    lost_up_to -= 1;
                }
                None => {
                    lasts.insert(id);
                }
            }
        }
        let missing = Sequences::up_to(lost_up_to).minus(&held);
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
    let plan = LossPlan {
        losses,
        incomplete: incomplete(first, heard, passes_by),
        silent: names
            .iter()
            .filter(behind_barrier)
            .map(|name| (*name).to_owned())
            .collect(),
        not_lost,
    };
    Planned { plan, held, lasts }
}

/// The incomplete counters, by name.
fn incomplete(
    first: &[Heard],
    heard: &[Heard],
    passes_by: impl Fn(&str) -> Option<String>,
) -> Vec<Incomplete> {
    let before = before(first, heard);
    let incomplete = heard.iter().filter(|heard| !heard.complete);
    let mut incomplete: Vec<_> = incomplete
        .map(|heard| Incomplete {
            name: heard.name.clone(),
            loss: heard.loss,
            not_yet: not_yet(before.minus(&heard.holds).count(), passes_by(&heard.name)),
        })
        .collect();
    incomplete.sort_unstable();
    incomplete
}

/// What every counter that lacks nothing holds by now: everything that any counter held at the
/// first barrier, and everything held by a counter that had not reached that barrier, because it
/// may have been in its queue by then.
fn before(first: &[Heard], heard: &[Heard]) -> Requirement {
    let mut before = united(first);
    let came = |of: &&Heard| first.iter().any(|one| one.name == of.name && one.barriers);
    for late in heard.iter().filter(|of| !came(of)) {
        before.unite(&late.holds);
    }
    before
}

/// Why a counter cannot be declared complete: it lacks this many batches that another counter
/// holds, or a coordinator does not publish to its queue.
fn not_yet(lacks: u64, passed_by: Option<String>) -> Option<String> {
    const LACKS: &str = "that another counter holds, and is catching up from it: make a new plan \
                         in a few seconds, or see its log";
    match (lacks, passed_by) {
        (0, None) => None,
        (0, Some(coordinator)) => Some(format!(
            "{coordinator} does not publish to its queue yet, or stopped less than a minute ago; \
             make a new plan in a minute"
        )),
        (lacks, _) => Some(format!("it lacks batches ({lacks}) {LACKS}")),
    }
}

/// The state of the counters after a loss acceptance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aftermath {
    /// Counters that are complete.
    pub complete: Vec<String>,
    /// Counters that are incomplete, each with the reason.
    pub incomplete: Vec<(String, StillIncomplete)>,
    /// Counters that did not answer behind a barrier that came after the acceptance.
    pub silent: Vec<String>,
}

/// Why a counter is incomplete after a loss acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StillIncomplete {
    /// The acceptance does not name it.
    NotNamed,
    /// It was restarted, or lost batches again, after the plan of the acceptance.
    LostAgain,
    /// The acceptance names its last loss but did not reach it.
    NotReached,
}

impl fmt::Display for StillIncomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self {
            Self::NotNamed => "the acceptance does not name it",
            Self::LostAgain => "it was restarted, or lost batches again, after the plan",
            Self::NotReached => "the acceptance did not come through its queue",
        };
        write!(
            f,
            "{why}. It ingests a snapshot of a complete counter; if none is left, run accept-loss \
             again"
        )
    }
}

/// The state of the counters that were `heard` behind a barrier after an acceptance for `named`.
pub(super) fn aftermath(
    names: &BTreeSet<&str>,
    named: &[(CounterName, LossId)],
    heard: &[Heard],
) -> Aftermath {
    let mut aftermath = Aftermath::default();
    for &name in names {
        let mut behind = heard.iter().filter(|heard| heard.barriers);
        let Some(heard) = behind.find(|heard| heard.name == name) else {
            aftermath.silent.push(name.to_owned());
            continue;
        };
        if heard.complete {
            aftermath.complete.push(name.to_owned());
            continue;
        }
        let signed = named.iter().find(|(of, _)| of.as_str() == name);
        let why = match signed {
            None => StillIncomplete::NotNamed,
            Some(&(_, loss)) if Some(loss) == heard.loss => StillIncomplete::NotReached,
            Some(_) => StillIncomplete::LostAgain,
        };
        aftermath.incomplete.push((name.to_owned(), why));
    }
    aftermath
}

/// The loss acceptance records of a partition, each with at most [`LOSSES_PER_RECORD_MAX`]
/// sequences. The last ones also declare that the counters `named`, in ascending order, are
/// complete at that record; each names at most [`COMPLETED_PER_RECORD_MAX`] counters. There is none
/// if there is nothing to record.
pub(super) fn records(
    partition: Partition,
    losses: &[Loss],
    named: &[(CounterName, LossId)],
) -> Vec<Acceptance> {
    let mut records = records_of_losses(partition, losses);
    let mut named = named.chunks(COMPLETED_PER_RECORD_MAX);
    let first = named.next().and_then(|named| completing(named.to_vec()));
    if let Some(completes) = first {
        match records.last_mut() {
            Some(last) => last.completes = completes,
            None => records.push(Acceptance {
                completes,
                ..Acceptance::default()
            }),
        }
    }
    let others = named.filter_map(|named| completing(named.to_vec()));
    records.extend(others.map(|completes| Acceptance {
        completes,
        ..Acceptance::default()
    }));
    records
}

fn completing(named: Vec<(CounterName, LossId)>) -> Option<Completes> {
    NamedLosses::new(named).map(Completes::Named)
}

fn records_of_losses(partition: Partition, losses: &[Loss]) -> Vec<Acceptance> {
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
    if !record.losses.is_empty() {
        records.push(record);
    }
    records
}

#[cfg(test)]
#[path = "losses_tests.rs"]
mod tests;
