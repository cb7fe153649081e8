//! What goes wrong at the broker again and again: when to say so, and from when on more than that.
//!
//! Invariant: pure. An outage does not fill the log, and one that does not pass by itself is told
//! with what to do.

use std::time::Duration;

use tokio::time::Instant;

use super::broker_error::BrokerError;
use super::outcome::{Outcome, Verdict};
use headcount_model::{BatchId, CounterName};

/// How long a broker may not give or take what it must before that counts as something that does
/// not pass by itself: longer than a node's restart, or the election of new leaders.
const STUCK_AFTER: Duration = Duration::from_secs(20);
/// The broker's reply when something in it failed, such as what asks a queue's members.
const INTERNAL_ERROR: u16 = 541;

/// Failures without a success between them.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    failures: u32,
    since: Option<Instant>,
    told_stuck: bool,
}

/// What to say of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Saying {
    /// Nothing: it was said already.
    Nothing,
    /// That it failed.
    Failure,
    /// That it fails for long, why that may be, and what to do.
    Stuck,
}

impl Trouble {
    /// Notes a failure at `now`. The first, the second, the fourth… are told, and the first that
    /// shows that it lasts.
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

    /// Notes what the broker refuses to a counter that consumes, and tells of it.
    pub(crate) fn tell(&mut self, error: &BrokerError, counter: &CounterName) {
        match self.note(Instant::now()) {
            Saying::Nothing => {}
            Saying::Stuck if error.may_be_lost_members() => {
                let advice = advice([counter]);
                tracing::error!(%error, %counter, advice, "the broker does not give the counter's queue");
            }
            Saying::Failure | Saying::Stuck => {
                tracing::warn!(%error, %counter, "the broker did not do as asked; trying again");
            }
        }
    }

    /// Notes a batch that some queues have not confirmed, and tells of it: `failure` is how the
    /// attempt ended, and `verdict` what follows.
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
                    "queues do not take what is posted"
                );
            }
            Saying::Failure | Saying::Stuck => {
                tracing::warn!(
                    ?failure,
                    ?verdict,
                    ?id,
                    ?counters,
                    "a batch is not confirmed"
                );
            }
        }
    }

    /// Notes that it worked.
    pub(crate) fn over(&mut self) {
        *self = Self::default();
    }
}

impl BrokerError {
    /// Whether it may be a queue whose members are lost: the broker answers "internal error", "not
    /// found" though it knows the queue, or nothing.
    fn may_be_lost_members(&self) -> bool {
        self.code() == Some(INTERNAL_ERROR) || self.is_out_of_reach() || self.is_timeout()
    }
}

/// Whether a queue whose members are lost may be why a batch is not confirmed.
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

/// What to do about the queues of counters that the broker can't reach.
fn advice<'a>(counters: impl IntoIterator<Item = &'a CounterName>) -> String {
    let command = |counter| format!("headcount remake-queue --name {counter}");
    let commands: Vec<String> = counters.into_iter().map(command).collect();
    format!(
        "Too few members of the queue may be left. Start all nodes of RabbitMQ, and look at `rabbitmqctl list_queues name \
         members online`. Only if the disks of most of its members are lost: {}",
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
