//! Hedged requests for answers that one counter can give: the counter that gave the last answer is
//! queried first, and the others too if it fails or is slow.
//!
//! Invariant: while no sufficient answer has arrived, every counter is queried before the timeout.
//! What a read can find therefore does not depend on which counter is queried first.
//!
//! Every counter holds the same state, so one answer is nearly always enough. Three queries cost
//! three times as much: here, and in the counters, which commit at once when a query waits. The
//! hedging delay follows "The Tail at Scale" (Dean & Barroso, 2013): it is longer than nearly all
//! answers take.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Coordinator;
use super::fanout::ANSWER_GRACE;
use super::members::{Member, MemberSet};
use headcount_rpc::QueryError;
use headcount_runtime::clock::within;

/// Hedging delay: how long to wait for the first counter before the others are queried too. It
/// allows for some commits of a busy counter.
const HEDGE_DELAY: Duration = Duration::from_millis(20);

/// The name of the counter that gave the last sufficient answer.
#[derive(Default)]
pub(super) struct Nearest(Mutex<Option<String>>);

impl Nearest {
    /// The counters of `members`, this one first. Halted counters come last, because they fall
    /// behind for the rest of their incarnation.
    fn first_of<'a>(&self, members: &'a MemberSet) -> Vec<&'a Member> {
        let mut members: Vec<&Member> = members.iter().collect();
        let nearest = self.0.lock();
        let is_first = |member: &Member| Some(&member.name) == nearest.as_ref();
        members.sort_by_key(|member| (member.is_halted(), !is_first(member)));
        members
    }

    fn note(&self, member: &Member) {
        let mut nearest = self.0.lock();
        if nearest.as_ref() != Some(&member.name) {
            *nearest = Some(member.name.clone());
        }
    }
}

impl Coordinator {
    /// Queries counters of `members` and collects answers until they are `enough`, or until the
    /// timeout.
    pub(super) async fn ask_nearest<'a, A, F>(
        &self,
        members: &'a MemberSet,
        wait: Duration,
        ask: impl Fn(&'a Member) -> F,
        enough: impl Fn(&[A]) -> bool,
    ) -> Gathered<'a, A>
    where
        F: Future<Output = Result<A, QueryError>> + Send,
    {
        let mut first = self.inner.nearest.first_of(members);
        let others = first.split_off(first.len().min(1));
        let gathered = gather(first, others, wait, ask, enough).await;
        if let Some(last) = gathered.last {
            self.inner.nearest.note(last);
        }
        gathered
    }
}

/// Answers of counters.
pub(super) struct Gathered<'a, A> {
    /// The answers, in order of arrival.
    pub answers: Vec<A>,
    /// The counter that gave the last answer, if the answers are enough.
    pub last: Option<&'a Member>,
    /// Whether a counter rejected the query because its limit of waiting queries was reached.
    pub busy: bool,
}

impl<A> Gathered<'_, A> {
    fn with_room_for(answers: usize) -> Self {
        Self {
            answers: Vec::with_capacity(answers),
            last: None,
            busy: false,
        }
    }

    /// Records an answer, or the reason why there is none.
    fn take(&mut self, answered: Result<A, QueryError>) {
        match answered {
            Ok(answer) => self.answers.push(answer),
            Err(error) => {
                tracing::debug!(%error, "counter query failed");
                self.busy |= error == QueryError::Busy;
            }
        }
    }
}

/// Queries `first`, and also `others` if those fail or exceed the hedging delay. Collects answers
/// until they are `enough`, or until the timeout.
pub(super) async fn gather<'a, A, F>(
    first: Vec<&'a Member>,
    mut others: Vec<&'a Member>,
    wait: Duration,
    ask: impl Fn(&'a Member) -> F,
    enough: impl Fn(&[A]) -> bool,
) -> Gathered<'a, A>
where
    F: Future<Output = Result<A, QueryError>> + Send,
{
    let limit = wait + ANSWER_GRACE;
    if let ([only], []) = (first.as_slice(), others.as_slice()) {
        return alone(only, limit, ask, enough).await;
    }
    let begun = Instant::now();
    let deadline = begun + limit;
    let named = |member| {
        let answer = ask(member);
        async move { (member, answer.await) }
    };
    let mut gathered = Gathered::with_room_for(first.len());
    let mut asked: FuturesUnordered<_> = first.into_iter().map(&named).collect();
    loop {
        let until = match others.is_empty() {
            true => deadline,
            false => deadline.min(begun + HEDGE_DELAY),
        };
        match tokio::time::timeout_at(until, asked.next()).await {
            Ok(Some((member, answered))) => {
                let is_answer = answered.is_ok();
                gathered.take(answered);
                if is_answer && enough(&gathered.answers) {
                    gathered.last = Some(member);
                    return gathered;
                }
            }
            Ok(None) | Err(_) if others.is_empty() => return gathered,
            Ok(None) | Err(_) => {}
        }
        asked.extend(others.drain(..).map(&named));
    }
}

/// Does the same for a single counter, without the cost of a set of futures.
async fn alone<'a, A, F>(
    only: &'a Member,
    limit: Duration,
    ask: impl Fn(&'a Member) -> F,
    enough: impl Fn(&[A]) -> bool,
) -> Gathered<'a, A>
where
    F: Future<Output = Result<A, QueryError>> + Send,
{
    let mut gathered = Gathered::with_room_for(1);
    // The answer is usually ready at the first poll.
    if let Ok(answered) = within(limit, ask(only)).await {
        let is_answer = answered.is_ok();
        gathered.take(answered);
        gathered.last = (is_answer && enough(&gathered.answers)).then_some(only);
    }
    gathered
}
