//! Rate limiting of log messages about repeated failures of broker operations, and advice for
//! failures that last.
//!
//! Invariant: pure except for logging. An outage does not fill the log, and a failure that does not
//! pass without an operator is logged with what to do.

use std::time::Duration;

use tokio::time::Instant;

use super::broker_error::BrokerError;
use super::outcome::{Outcome, Verdict};
use headcount_model::{BatchId, CounterName};

/// How long operations must fail before the failure counts as one that only an operator can end:
/// longer than the restart of a node, or the election of new leaders.
const STUCK_AFTER: Duration = Duration::from_secs(20);
/// The reply code for an internal error of the broker, such as a failed call to a queue's members.
const INTERNAL_ERROR: u16 = 541;

/// A series of failures without a success between them.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    failures: u32,
    since: Option<Instant>,
    told_stuck: bool,
}

/// What to log about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Saying {
    /// Nothing, because it was logged already.
    Nothing,
    /// That the operation failed.
    Failure,
    /// That it has failed for long, the possible cause, and what to do.
    Stuck,
}

impl Trouble {
    /// Counts a failure at `now`. Failures 1, 2, 4, 8… are logged, and the first one after
    /// [`STUCK_AFTER`].
    pub(crate) fn note(&mut self, now: Instant) -> Saying {
        self.failures = self.failures.saturating_add(1);
        let since = *self.since.get_or_insert(now);
        let is_stuck = now.saturating_duration_since(since) >= STUCK_AFTER;
        let is_first = is_stuck && !std::mem::replace(&mut self.told_stuck, is_stuck);
        match (is_first || self.failures.is_power_of_two(), is_stuck) {
            (false, _) => Saying::Nothing,
            (true, false) => Saying::Failure,
            (true, true) => Saying::Stuck,
        }
    }

    /// Counts a failure of a broker operation for a counter that consumes, and logs it.
    pub(crate) fn tell(&mut self, error: &BrokerError, counter: &CounterName) {
        match self.note(Instant::now()) {
            Saying::Nothing => {}
            Saying::Stuck if error.may_be_lost_members() => {
                let advice = advice([counter]);
                tracing::error!(%error, %counter, advice, "counter's queue cannot be consumed");
            }
            Saying::Failure | Saying::Stuck => {
                tracing::warn!(%error, %counter, "broker operation failed; retrying");
            }
        }
    }

    /// Counts an attempt after which some queues have not confirmed a batch, and logs it.
    /// `failure` is how the attempt ended, and `verdict` what follows.
    pub(crate) fn tell_unconfirmed(
        &mut self,
        failure: &Outcome,
        verdict: &Verdict,
        id: BatchId,
        counters: &[&CounterName],
    ) {
        match self.note(Instant::now()) {
            Saying::Nothing => {}
            Saying::Stuck if may_be_lost_members(failure) && !counters.is_empty() => {
                let advice = advice(counters.iter().copied());
                tracing::error!(
                    ?failure,
                    ?id,
                    ?counters,
                    advice,
                    "queues do not confirm batches"
                );
            }
            Saying::Failure | Saying::Stuck => {
                tracing::warn!(?failure, ?verdict, ?id, ?counters, "batch not confirmed");
            }
        }
    }

    /// Resets the count after a success.
    pub(crate) fn over(&mut self) {
        *self = Self::default();
    }
}

impl BrokerError {
    /// Whether the cause may be a queue that has lost its members: the broker replies "internal
    /// error", or "not found" although it knows the queue, or not at all.
    fn may_be_lost_members(&self) -> bool {
        self.code() == Some(INTERNAL_ERROR) || self.is_out_of_reach() || self.is_timeout()
    }
}

/// Whether a batch may be unconfirmed because a queue has lost its members.
fn may_be_lost_members(failure: &Outcome) -> bool {
    match failure {
        Outcome::Nacked | Outcome::TimedOut => true,
        Outcome::Failed { code, .. } => *code == Some(INTERNAL_ERROR),
        Outcome::Confirmed
        | Outcome::Returned
        | Outcome::NotRequested
        | Outcome::TooLarge { .. } => false,
    }
}

/// What to do about the queues of counters that the broker cannot reach.
fn advice<'a>(counters: impl IntoIterator<Item = &'a CounterName>) -> String {
    let command = |counter| format!("headcount remake-queue --name {counter}");
    let commands: Vec<String> = counters.into_iter().map(command).collect();
    format!(
        "The queue may have too few members left. Start all nodes of RabbitMQ, and check \
         `rabbitmqctl list_queues name members online`. Only if the disks of most of its members \
         are lost, run: {}",
        commands.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_seldom_and_a_long_one_with_what_to_do() {
        let mut trouble = Trouble::default();
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let said: Vec<Saying> = (0..10).map(|s| trouble.note(at(s))).collect();
        let failures = said.iter().filter(|said| **said == Saying::Failure);
        assert_eq!(failures.count(), 4, "{said:?}");
        assert_eq!(trouble.note(at(21)), Saying::Stuck, "the eleventh");
        assert_eq!(trouble.note(at(22)), Saying::Nothing);
        trouble.over();
        assert_eq!(trouble.note(at(23)), Saying::Failure);
    }

    #[test]
    fn the_advice_names_the_command_of_each_counter() {
        let names = ["c1", "c2"].map(|name| CounterName::new(name).expect("valid"));
        let advice = advice(&names);
        for counter in names {
            let command = format!("headcount remake-queue --name {counter}");
            assert!(advice.contains(&command), "{advice}");
        }
    }
}
