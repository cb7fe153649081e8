//! Reads: ask every counter at once, take the first answer that covers what it must, merge.
//!
//! Invariant: an answer is called exact only if it covers everything that its consistency asks for; exact
//! answers of one coordinator never go backwards.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use thiserror::Error;
use tokio::time::Instant;

use super::Coordinator;
use super::members::Member;
use super::merge::{self, Covered};
use crate::counter::{Demand, ListQuery, Queries, QueryError, Status};
use crate::model::{ItemHash, Requirement, TenantName, Token};
use crate::telemetry;

/// How much longer than the counters a coordinator waits for their answers to arrive.
const ANSWER_GRACE: Duration = Duration::from_millis(250);

/// How long a coordinator waits for a counter's status.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// What a read must include.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Everything that this coordinator acknowledged before, and all that it has shown.
    #[default]
    Session,
    /// Everything that any coordinator acknowledged before.
    Strong,
    /// Whatever is known at once.
    Eventual,
}

impl Consistency {
    /// Its name in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Strong => "strong",
            Self::Eventual => "eventual",
        }
    }
}

/// How a client wants to read.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// What the answer must include.
    pub consistency: Consistency,
    /// A token whose items the answer must include as well.
    pub after: Option<Token>,
    /// How long to wait for an answer that does.
    pub timeout: Duration,
}

/// An answer, and whether it is exact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read<T> {
    /// The answer.
    pub value: T,
    /// Whether it includes everything that it should.
    pub exact: bool,
}

/// Why a read has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReadError {
    /// No counter answered in time.
    #[error("no counter answered in time")]
    NoCounter,
    /// A strong read could not reach enough counters, or the log, in time.
    #[error("the log or a majority of the counters did not answer in time")]
    NoMajority,
}

/// A counter as its coordinator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterView {
    /// Its name.
    pub name: String,
    /// What it says of itself, or why it can't be asked.
    pub status: Result<Status, QueryError>,
    /// Messages in its queue, when there is one and somebody counts them.
    pub queue_messages: Option<u64>,
    /// Batches appended that it has not applied, as far as is known.
    pub lag_batches: Option<u64>,
    /// How long ago it announced itself, in milliseconds.
    pub last_seen_ms_ago: Option<u64>,
    /// Where it is asked; none in the same process.
    pub url: Option<String>,
}

impl Coordinator {
    /// Counts of several tenants, of one moment.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn counts(
        &self,
        tenants: Vec<TenantName>,
        options: &ReadOptions,
    ) -> Result<Read<Vec<u64>>, ReadError> {
        let tenants: Arc<[TenantName]> = tenants.into();
        let asked = tenants.len();
        let (answers, exact) = self
            .read(options, |counter, demand| {
                counter.counts(Arc::clone(&tenants), demand)
            })
            .await?;
        let value = merge::counts(self.inner.partitioning, asked, &answers);
        Ok(Read { value, exact })
    }

    /// Whether an item is counted.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn contains(
        &self,
        tenant: TenantName,
        hash: ItemHash,
        options: &ReadOptions,
    ) -> Result<Read<bool>, ReadError> {
        let (answers, exact) = self
            .read(options, |counter, demand| {
                counter.contains(tenant.clone(), hash, demand)
            })
            .await?;
        let value = merge::membership(self.inner.partitioning, &answers);
        Ok(Read { value, exact })
    }

    /// A page of tenants with their counts, and whether there are more.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn list(
        &self,
        query: ListQuery,
        options: &ReadOptions,
    ) -> Result<Read<(Vec<(TenantName, u64)>, bool)>, ReadError> {
        let query = Arc::new(query);
        let (answers, exact) = self
            .read(options, |counter, demand| {
                counter.list(Arc::clone(&query), demand)
            })
            .await?;
        let value = merge::listing(self.inner.partitioning, query.limit, &answers);
        Ok(Read { value, exact })
    }

    /// Every counter as it can be seen now.
    pub async fn counters(&self) -> Vec<CounterView> {
        let asked = self.inner.members.iter().map(|member| async move {
            let counter = member.queries.as_ref();
            let status = tokio::time::timeout(STATUS_TIMEOUT, counter.status()).await;
            CounterView {
                name: counter.name().to_owned(),
                status: status
                    .unwrap_or_else(|_| Err(QueryError::Unreachable("it does not answer".into()))),
                queue_messages: None,
                lag_batches: None,
                last_seen_ms_ago: None,
                url: None,
            }
        });
        futures_util::future::join_all(asked).await
    }

    async fn read<A: Covered + Send>(
        &self,
        options: &ReadOptions,
        ask: impl for<'a> Fn(&'a dyn Queries, Demand) -> BoxFuture<'a, Result<A, QueryError>>,
    ) -> Result<(Vec<A>, bool), ReadError> {
        let deadline = Instant::now() + options.timeout;
        let mut requirement = Requirement::default();
        if options.consistency != Consistency::Eventual {
            requirement = self.inner.session.requirement(&self.inner.batchers);
        }
        if let Some(token) = &options.after {
            requirement.unite(&token.requirement());
        }
        if options.consistency == Consistency::Strong {
            requirement.unite(&self.everything_acknowledged(deadline).await?);
        }
        let wait = deadline.saturating_duration_since(Instant::now());
        let demand = Demand {
            requirement,
            barriers: Vec::new(),
            wait: match (options.consistency, &options.after) {
                (Consistency::Eventual, None) => Duration::ZERO,
                _ => wait,
            },
            whole_position: false,
        };
        let floor = self.inner.session.floor();
        let may_be_exact = floor.is_some() && options.consistency != Consistency::Eventual;
        let floor = floor.filter(|_| may_be_exact);
        let partitioning = self.inner.partitioning;
        let answers = self
            .ask_all(
                wait,
                |member| ask_above(floor, member, demand.clone(), &ask),
                |answers| merge::is_covered(partitioning, answers),
            )
            .await;
        if answers.is_empty() {
            return Err(ReadError::NoCounter);
        }
        let exact = may_be_exact && merge::is_covered(partitioning, &answers);
        if exact {
            self.inner
                .session
                .note_shown(&merge::shown(partitioning, &answers));
        }
        metrics::counter!(
            telemetry::READS,
            "consistency" => options.consistency.as_str(),
            "exact" => if exact { "true" } else { "false" },
        )
        .increment(1);
        Ok((answers, exact))
    }

    /// Appends a barrier, waits until a majority of the counters have applied it, and returns all that those
    /// have: everything that anyone acknowledged before the call began.
    pub(super) async fn everything_acknowledged(
        &self,
        deadline: Instant,
    ) -> Result<Requirement, ReadError> {
        let barriers = tokio::time::timeout_at(deadline, self.append_barriers())
            .await
            .map_err(|_| ReadError::NoMajority)?
            .map_err(|_| ReadError::NoMajority)?;
        let wait = deadline.saturating_duration_since(Instant::now());
        let demand = Demand {
            requirement: Requirement::default(),
            barriers,
            wait,
            whole_position: true,
        };
        let majority = self.inner.members.len() / 2 + 1;
        let nobody: Arc<[TenantName]> = Arc::new([]);
        let covering = |answers: &[crate::counter::Counts]| {
            answers
                .iter()
                .filter(|answer| answer.cover.barriers)
                .count()
        };
        let answers = self
            .ask_all(
                wait,
                |member| member.queries.counts(Arc::clone(&nobody), demand.clone()),
                |answers| covering(answers) >= majority,
            )
            .await;
        if covering(&answers) < majority {
            return Err(ReadError::NoMajority);
        }
        let mut everything = Requirement::default();
        for answer in answers.iter().filter(|answer| answer.cover.barriers) {
            everything.unite(&answer.cover.covered);
        }
        Ok(everything)
    }

    /// Asks every counter and collects answers until `enough`, or until the time is up.
    async fn ask_all<'a, A: Send>(
        &'a self,
        wait: Duration,
        ask: impl Fn(&'a Member) -> BoxFuture<'a, Result<A, QueryError>>,
        enough: impl Fn(&[A]) -> bool,
    ) -> Vec<A> {
        let deadline = Instant::now() + wait + ANSWER_GRACE;
        let mut asked: FuturesUnordered<_> = self.inner.members.iter().map(ask).collect();
        let mut answers = Vec::with_capacity(asked.len());
        while let Ok(Some(answer)) = tokio::time::timeout_at(deadline, asked.next()).await {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(error) => tracing::debug!(%error, "a counter did not answer"),
            }
            if enough(&answers) {
                break;
            }
        }
        answers
    }
}

/// Asks a counter for an answer that covers the floor as well, unless it is known to hold that.
fn ask_above<'a, A: Covered + Send + 'a>(
    floor: Option<&Requirement>,
    member: &'a Member,
    mut demand: Demand,
    ask: &impl Fn(&'a dyn Queries, Demand) -> BoxFuture<'a, Result<A, QueryError>>,
) -> BoxFuture<'a, Result<A, QueryError>> {
    let Some(floor) = floor.filter(|_| !member.holds_floor()) else {
        return ask(member.queries.as_ref(), demand);
    };
    demand.requirement.unite(floor);
    let answer = ask(member.queries.as_ref(), demand);
    async move {
        let answer = answer.await?;
        if answer.cover().partitions.iter().all(|&(_, covers)| covers) {
            member.note_floor();
        }
        Ok(answer)
    }
    .boxed()
}

#[cfg(test)]
#[path = "reads_tests.rs"]
mod tests;
