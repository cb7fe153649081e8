//! Asking for an answer that one counter can give: the one that gave the last is asked first, the
//! others as well when it does not answer well or soon.
//!
//! Invariant: as long as an answer is missing, every counter is asked before the time is up; so
//! what a read can learn does not depend on who is asked first.
//!
//! Every counter has everything, so one answer is enough nearly always, and three cost three times
//! as much: here, and in counters that commit at once because a query waits. How long to wait for
//! the first is that of "The Tail at Scale" (Dean & Barroso, 2013): longer than nearly all answers
//! take.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Coordinator;
use super::ask::ANSWER_GRACE;
use super::members::{Member, Roll};
use headcount_rpc::QueryError;
use headcount_runtime::clock::within;

/// How long the first counter is waited for before the others are asked too: some commits of a busy
/// one.
const OTHERS_AFTER: Duration = Duration::from_millis(20);

/// The name of the counter that gave the last answer that was enough.
#[derive(Default)]
pub(super) struct Nearest(Mutex<Option<String>>);

impl Nearest {
    /// The counters of a roll, this one first; those that fall behind for as long as they live come
    /// last.
    fn first_of<'a>(&self, roll: &'a Roll) -> Vec<&'a Member> {
        let mut members: Vec<&Member> = roll.members().collect();
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
    /// Asks counters of `roll` and collects answers until they are `enough`, or until the time is
    /// up.
    pub(super) async fn ask_nearest<'a, A, F>(
        &self,
        roll: &'a Roll,
        wait: Duration,
        ask: impl Fn(&'a Member) -> F,
        enough: impl Fn(&[A]) -> bool,
    ) -> Gathered<'a, A>
    where
        F: Future<Output = Result<A, QueryError>> + Send,
    {
        let mut first = self.inner.nearest.first_of(roll);
        let others = first.split_off(first.len().min(1));
        let gathered = gather(first, others, wait, ask, enough).await;
        if let Some(last) = gathered.last {
            self.inner.nearest.note(last);
        }
        gathered
    }
}

/// What counters answered.
pub(super) struct Gathered<'a, A> {
    /// Their answers, as they came.
    pub answers: Vec<A>,
    /// Whose was the last, where they are enough.
    pub last: Option<&'a Member>,
    /// Whether one refused, since as many queries wait for it as may.
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

    /// Takes an answer, or why there is none.
    fn take(&mut self, answered: Result<A, QueryError>) {
        match answered {
            Ok(answer) => self.answers.push(answer),
            Err(error) => {
                tracing::debug!(%error, "a counter did not answer");
                self.busy |= error == QueryError::Busy;
            }
        }
    }
}

/// Asks `first`, and `others` too when those do not answer well or soon. Collects answers until
/// they are `enough`, or until the time is up.
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
            false => deadline.min(begun + OTHERS_AFTER),
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

/// The same where there is only one: a process that runs alone need not keep a set of whom it waits
/// for.
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
    // Mostly it has the answer at hand.
    if let Ok(answered) = within(limit, ask(only)).await {
        let is_answer = answered.is_ok();
        gathered.take(answered);
        gathered.last = (is_answer && enough(&gathered.answers)).then_some(only);
    }
    gathered
}
