//! Groups queries for counts that are answered at once or shortly: queries that arrive while a
//! request is in flight are sent together in the next one.
//!
//! Invariant: a lane has one request in flight at a time, so groups form under load and never by a
//! timer. Groups and the queue are bounded. A query is not sent if its caller is gone. A group is
//! answered as a whole: queries that may wait and queries that must not use different lanes.

use tokio::sync::{mpsc, oneshot};

use super::counter::ANSWER_GRACE;
use super::node::{Address, Failure, Sent};
use crate::Counts;
use crate::messages::{
    COUNTS_PATH, CountsAnswers, CountsGroup, CountsQuery, GROUP_EPOCHS_MAX, GROUP_QUERIES_MAX,
    GROUP_TENANTS_MAX, Message,
};
use headcount_runtime::supervisor::{Ended, Supervisor, Task};

/// Maximum queries that wait for the next request; further callers wait for a place in the queue.
const QUEUE_MAX: usize = 1_024;

type Answer = Result<Counts, Failure>;

struct Asked {
    query: CountsQuery,
    answer: oneshot::Sender<Answer>,
}

/// The sending end of a lane. The lane ends when it is dropped.
pub(super) struct QueryBatcher {
    queue: mpsc::Sender<Asked>,
}

impl QueryBatcher {
    /// Starts a lane to the counter at `address`.
    pub(super) fn start(address: Address, supervisor: &Supervisor) -> Self {
        let (queue, asked) = mpsc::channel(QUEUE_MAX);
        supervisor.spawn(Task::AskingLane, run(address, asked));
        Self { queue }
    }

    /// Sends the query with the next group. The query may wait only briefly, since the group after
    /// it waits as well.
    pub(super) async fn ask(&self, query: CountsQuery) -> Answer {
        let ended = || Failure::unreachable("the request task has ended");
        let (answer, answered) = oneshot::channel();
        let asked = Asked { query, answer };
        self.queue.send(asked).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

async fn run(address: Address, mut queue: mpsc::Receiver<Asked>) -> Ended {
    let mut held = None;
    loop {
        let first = match held.take() {
            Some(first) => first,
            None => match queue.recv().await {
                Some(first) => first,
                None => return Ended::Done,
            },
        };
        let group;
        (group, held) = gather(first, || queue.try_recv().ok());
        if group.is_empty() {
            continue;
        }
        let (queries, callers): (Vec<_>, Vec<_>) = group
            .into_iter()
            .map(|asked| (asked.query, asked.answer))
            .unzip();
        let asked = ask(&address, CountsGroup(queries)).await;
        match asked {
            Ok(answers) => {
                for (caller, answer) in callers.into_iter().zip(answers) {
                    let _ = caller.send(answer);
                }
            }
            Err(failure) => {
                for caller in callers {
                    let _ = caller.send(Err(failure.clone()));
                }
            }
        }
    }
}

/// The next group: `first` and as many of the next queries as fit, without those of callers that
/// are gone. Also returns the query that did not fit.
fn gather(first: Asked, mut next: impl FnMut() -> Option<Asked>) -> (Vec<Asked>, Option<Asked>) {
    let (mut tenants, mut epochs) = (0_usize, 0_usize);
    let mut group: Vec<Asked> = Vec::new();
    let mut candidate = Some(first);
    while let Some(asked) = candidate {
        if !asked.answer.is_closed() {
            tenants += asked.query.tenants.len();
            epochs += asked.query.demand.requirement.iter().count();
            let too_many = tenants > GROUP_TENANTS_MAX || epochs > GROUP_EPOCHS_MAX;
            if too_many && !group.is_empty() {
                return (group, Some(asked));
            }
            group.push(asked);
            if group.len() == GROUP_QUERIES_MAX {
                break;
            }
        }
        candidate = next();
    }
    (group, None)
}

async fn ask(address: &Address, group: CountsGroup) -> Result<Vec<Answer>, Failure> {
    let sent = Sent::Post(group.encode().into());
    let answers: CountsAnswers = address.ask(COUNTS_PATH, sent, ANSWER_GRACE).await?;
    check(&group, answers)
}

/// Checks that the answers match their queries.
pub(super) fn check(group: &CountsGroup, answers: CountsAnswers) -> Result<Vec<Answer>, Failure> {
    let fits = |(query, answer): (&CountsQuery, &Result<Counts, _>)| match answer {
        Ok(counts) => counts.counts.len() == query.tenants.len(),
        Err(_) => true,
    };
    let queries = &group.0;
    if queries.len() != answers.0.len() || !queries.iter().zip(&answers.0).all(fits) {
        return Err(Failure::unreachable(
            "the response does not match the request",
        ));
    }
    let answers = answers.0.into_iter();
    Ok(answers
        .map(|answer| answer.map_err(Failure::Answer))
        .collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ReadRequirement;
    use headcount_model::{Epoch, Partition, TenantName};

    fn asked(tenants: usize, epochs: usize) -> (Asked, oneshot::Receiver<Answer>) {
        let tenant = TenantName::new("t").expect("valid");
        let tenants: Arc<[TenantName]> = vec![tenant; tenants].into();
        let mut demand = ReadRequirement::default();
        for epoch in 0..epochs {
            demand
                .requirement
                .add(Partition(0), Epoch(epoch as u128), 1);
        }
        let (answer, answered) = oneshot::channel();
        let query = CountsQuery { tenants, demand };
        (Asked { query, answer }, answered)
    }

    /// The sizes of the groups that form from queries with these numbers of tenants and epochs.
    fn groups(sizes: &[(usize, usize)]) -> Vec<usize> {
        let (all, _callers): (Vec<_>, Vec<_>) = sizes.iter().map(|&(t, e)| asked(t, e)).unzip();
        let mut all = all.into_iter();
        let mut first = all.next();
        let mut groups = Vec::new();
        while let Some(asked) = first {
            let (group, held) = gather(asked, || all.next());
            groups.push(group.len());
            first = held.or_else(|| all.next());
        }
        groups
    }

    #[test]
    fn groups_are_bounded_and_lose_nobody() {
        assert_eq!(groups(&[(1, 0); 600]), [256, 256, 88]);
        assert_eq!(groups(&[(1_000, 0); 5]), [2, 2, 1]);
        assert_eq!(groups(&[(1, 0), (5_000, 0), (1, 0), (1, 0)]), [1, 1, 2]);
        let many = GROUP_EPOCHS_MAX / 2;
        assert_eq!(groups(&[(1, many), (1, many), (1, 1)]), [2, 1]);
        assert_eq!(groups(&[(1, GROUP_EPOCHS_MAX + 1), (1, 0)]), [1, 1]);
    }

    #[test]
    fn who_has_gone_is_not_asked_for() {
        let (first, gone) = asked(1, 0);
        drop(gone);
        let (second, _stays) = asked(1, 0);
        let mut rest = vec![second].into_iter();
        let (group, held) = gather(first, || rest.next());
        assert_eq!((group.len(), held.is_some()), (1, false));

        let (only, gone) = asked(1, 0);
        drop(gone);
        assert!(gather(only, || None).0.is_empty());
    }
}
