//! What nobody holds: what may be dropped from the requirement, and what only an operator may give
//! up.
//!
//! Invariant: everything here is a pure function of what counters said. A sequence with a known
//! successor was acknowledged, since a coordinator sends the next only after it: it is never
//! dropped. Of each epoch at most one sequence, the last, can be in doubt.

use std::collections::BTreeSet;
use std::fmt;

use super::ask::Heard;
use headcount_model::{
    Acceptance, BatchId, COMPLETED_PER_RECORD_MAX, Completes, CounterName, Epoch,
    LOSSES_PER_RECORD_MAX, LossId, NamedLosses, Partition, Requirement, Sequence, Sequences,
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

/// A counter that is not sure to have everything.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Incomplete {
    /// Its name.
    pub name: String,
    /// What names its last loss; `None` where its release doesn't say, so that it can't be
    /// accepted.
    pub loss: Option<LossId>,
    /// Why it can't be accepted yet, and what an operator does about that.
    pub not_yet: Option<String>,
}

impl Incomplete {
    /// Whether it may be taken for complete, with what it holds, after this loss.
    fn may_complete(&self, name: &CounterName, loss: LossId) -> bool {
        self.name == name.as_str() && self.loss == Some(loss) && self.not_yet.is_none()
    }
}

/// A batch that nobody holds, and that may still come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotLost {
    /// The batch: its epoch's last, as far as is known.
    pub id: BatchId,
    /// Why it may come, and what an operator does about that.
    pub why: String,
}

/// What an operator would give up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LossPlan {
    /// What is known to have been acknowledged, or shown, and nobody that was heard holds;
    /// ascending.
    pub losses: Vec<Loss>,
    /// Counters that are not sure to have everything, by name.
    pub incomplete: Vec<Incomplete>,
    /// Named counters that did not answer behind a fresh barrier: what is missing may be with them
    /// still.
    pub silent: Vec<String>,
    /// What nobody that was heard holds either, and is not lost yet.
    pub not_lost: Vec<NotLost>,
}

impl LossPlan {
    /// Whether the plan lets the counter `name` be taken for complete after this loss.
    pub(super) fn completes(&self, name: &CounterName, loss: LossId) -> bool {
        let mut incomplete = self.incomplete.iter();
        incomplete.any(|of| of.may_complete(name, loss))
    }

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

/// What of `required` was never acknowledged and is held by nobody: the last sequence of an epoch
/// that a counter had, showed and lost before its coordinator could finish. Empty unless every one
/// of `names` answered behind a barrier that was appended after `required` was read, and is
/// complete; none of the epoch `own`; and of an epoch of which something was `dropped` before, only
/// the same again; and none of an epoch whose last batch `may_come`.
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
        // Nothing but the one behind all that is held, and that without a hole.
        let in_doubt = held == Sequences::up_to(last - 1) && before == last;
        if epoch != own && in_doubt && !may_come(epoch) {
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
    /// Those of the losses that are their epochs' last.
    pub lasts: BTreeSet<BatchId>,
}

/// What is known when a plan is made.
pub(super) struct Known<'a> {
    /// The named counters.
    pub names: &'a BTreeSet<&'a str>,
    /// What exact answers must cover.
    pub required: &'a Requirement,
    /// What the counters said behind a barrier.
    pub first: &'a [Heard],
    /// What they said behind another one, later.
    pub heard: &'a [Heard],
}

/// What is lost, as far as those heard know: all that is required, and all that must have come
/// before what is known, but for what somebody holds; and but for an epoch's last one that
/// `may_come`, for a reason that is given. A counter that a coordinator `passes_by`, which is
/// named, or that lacks what another holds, can't be taken for complete yet.
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

/// The counters that are not complete, by name.
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

/// What every counter that lacks nothing holds by now: what any of them held up to the first
/// barrier, and all that one holds which had not come to that barrier then, since its queue may
/// still have had it.
fn before(first: &[Heard], heard: &[Heard]) -> Requirement {
    let mut before = united(first);
    let came = |of: &&Heard| first.iter().any(|one| one.name == of.name && one.barriers);
    for late in heard.iter().filter(|of| !came(of)) {
        before.unite(&late.holds);
    }
    before
}

/// Why a counter can't be taken for complete that lacks so many batches which another holds, and
/// that a coordinator passes by.
fn not_yet(lacks: u64, passed_by: Option<String>) -> Option<String> {
    const LACKS: &str = "that another counter holds, and takes them over from that one: make a new plan in some seconds, or see \
                         its log";
    match (lacks, passed_by) {
        (0, None) => None,
        (0, Some(coordinator)) => Some(format!(
            "{coordinator} does not publish to its queue yet, or is gone for less than a minute; make a new plan then"
        )),
        (lacks, _) => Some(format!("it lacks batches ({lacks}) {LACKS}")),
    }
}

/// How the counters stand after a signature that named some of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aftermath {
    /// Those that are complete.
    pub complete: Vec<String>,
    /// Those that are not, each with the reason.
    pub incomplete: Vec<(String, StillIncomplete)>,
    /// Those that did not answer behind a barrier that came after the signature.
    pub silent: Vec<String>,
}

/// Why a counter is not complete after a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StillIncomplete {
    /// The signature does not name it.
    NotNamed,
    /// It was restarted, or lost batches again, after the plan that the signature is for.
    LostAgain,
    /// It is named with its last loss, and the signature did not reach it.
    NotReached,
}

impl fmt::Display for StillIncomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self {
            Self::NotNamed => "it was not named",
            Self::LostAgain => "it was restarted, or has lost batches again, after the plan",
            Self::NotReached => "what was signed did not come through its queue",
        };
        write!(
            f,
            "{why}. It takes a snapshot from a complete counter; if none is left, run accept-loss again"
        )
    }
}

/// How the counters stand that were `heard` behind a barrier after a signature for `named`.
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

/// A partition's accepting records: at most [`LOSSES_PER_RECORD_MAX`] sequences each, and the last
/// ones say that the counters `named`, in ascending order, are complete from there on, at most
/// [`COMPLETED_PER_RECORD_MAX`] each. None when there is nothing to say.
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
