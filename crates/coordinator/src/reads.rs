//! Reads: query one counter, hedge the query to the others, take the first answer that covers the
//! requirement, and merge answers.
//!
//! Invariant: an answer is exact only if it covers everything that its consistency requires. Exact
//! answers of one coordinator never go backwards.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use super::Coordinator;
use super::fanout::Answering;
use super::fanout::Heard;
use super::merge::{self, Covered};
use headcount_model::{ItemHash, Partitioning, Requirement, TenantName, Token};
use headcount_rpc::{ListQuery, Queries, ReadRequirement};

/// What a read must include.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Everything that this coordinator acknowledged before, and everything that it has shown.
    #[default]
    Session,
    /// Everything that any coordinator acknowledged before.
    Strong,
    /// Whatever the counters have now, without waiting.
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

/// Options of a read.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// What the answer must include.
    pub consistency: Consistency,
    /// A token of a post. The answer must also include the items of that post.
    pub after: Option<Token>,
    /// How long to wait for such an answer.
    pub timeout: Duration,
}

/// An answer, and whether it is exact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read<T> {
    /// The answer.
    pub value: T,
    /// Whether the answer includes everything that it must include.
    pub exact: bool,
}

/// Why a read has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReadError {
    /// No counter answered in time.
    #[error("no counter answered in time")]
    NoCounter,
    /// A strong read did not reach the log, or a majority of the counters, in time.
    #[error("the log or a majority of the counters did not answer in time")]
    NoMajority,
    /// No counter covers the requirement, and the limit of waiting reads is reached.
    #[error("too many reads are waiting for data that the counters do not have yet")]
    TooManyWaiting,
    /// The limit of concurrent strong reads is reached.
    #[error("too many strong reads are running")]
    TooManyStrong,
}

impl Coordinator {
    /// How the items of the cluster are partitioned. A token names only these partitions.
    #[must_use]
    pub fn partitioning(&self) -> Partitioning {
        self.inner.partitioning
    }

    /// Counts of several tenants, as of one moment.
    ///
    /// # Errors
    /// If no counter answers in time, or too many reads are waiting.
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
    /// If no counter answers in time, or too many reads are waiting.
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

    /// A page of tenants with their counts, and whether more tenants follow.
    ///
    /// # Errors
    /// If no counter answers in time, or too many reads are waiting.
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

    async fn read<A: Covered + Send>(
        &self,
        options: &ReadOptions,
        ask: impl for<'a> Fn(&'a dyn Queries, ReadRequirement) -> Answering<'a, A> + Sync,
    ) -> Result<(Vec<A>, bool), ReadError> {
        let deadline = Instant::now() + options.timeout;
        let session = &self.inner.session;
        let mut requirement = Requirement::default();
        if options.consistency != Consistency::Eventual {
            requirement = session.requirement(&self.inner.batchers);
        }
        if let Some(token) = &options.after {
            requirement.unite(&token.requirement());
        }
        if options.consistency == Consistency::Strong {
            requirement.unite(&self.acknowledged_beyond_floor(deadline).await?);
        }
        let wait = match (options.consistency, &options.after) {
            (Consistency::Eventual, None) => Duration::ZERO,
            _ => deadline.saturating_duration_since(Instant::now()),
        };
        let demand = ReadRequirement {
            requirement,
            barriers: Vec::new(),
            wait,
            whole_position: false,
        };
        let floor = session
            .floor()
            .filter(|_| options.consistency != Consistency::Eventual);
        let floor = floor.as_deref();
        let members = self.inner.members.member_set();
        let partitioning = self.inner.partitioning;
        let gathered = self
            .ask_nearest(
                &members,
                deadline.saturating_duration_since(Instant::now()),
                |member| self.ask_above(member, floor, demand.clone(), &ask),
                |answers| merge::is_covered(partitioning, answers),
            )
            .await;
        let answers = match gathered.answers {
            none if none.is_empty() && gathered.busy => {
                // Otherwise a requirement that no counter can meet would not be checked while other
                // reads use up the limit.
                if floor.is_some() && options.after.is_none() {
                    session.note_exact(false);
                }
                return Err(ReadError::TooManyWaiting);
            }
            none if none.is_empty() => return Err(ReadError::NoCounter),
            answers => answers,
        };
        let exact = floor.is_some() && merge::is_covered(partitioning, &answers);
        if exact {
            session.note_shown(&merge::shown(partitioning, &answers));
        }
        // A token from a client may require anything, so such a read shows nothing about the
        // session.
        if floor.is_some() && options.after.is_none() {
            session.note_exact(exact);
        }
        self.inner
            .meters
            .reads(options.consistency, exact)
            .increment(1);
        Ok((answers, exact))
    }

    /// What a strong read must cover in addition to the floor, which it must always cover.
    async fn acknowledged_beyond_floor(&self, deadline: Instant) -> Result<Requirement, ReadError> {
        let permit = self.inner.strong_reads.try_acquire();
        let _permit = permit.map_err(|_| ReadError::TooManyStrong)?;
        let everything = self.everything_acknowledged(deadline).await?;
        Ok(match self.inner.session.floor() {
            Some(floor) => everything.minus(&floor),
            None => everything,
        })
    }

    /// Appends a barrier and waits until a majority of the counters has applied it and is complete.
    /// Returns what the counters that applied it hold, and all batches that must precede those:
    /// everything that any coordinator acknowledged before the call began. An incomplete counter
    /// may have lost exactly that, so it does not count towards the majority.
    pub(super) async fn everything_acknowledged(
        &self,
        deadline: Instant,
    ) -> Result<Requirement, ReadError> {
        let members = self.inner.members.member_set();
        let vouches = |heard: &&Heard| heard.barriers && heard.complete;
        let others = self.inner.neighbours.lock().named();
        let behind_barrier = |heard: &[Heard]| {
            let vouching = heard.iter().filter(vouches);
            let vouching = vouching.map(|heard| heard.name.as_str()).collect();
            members.has_majority(&vouching, &others)
        };
        let heard = self.hear_all(&members, deadline, behind_barrier).await?;
        if !behind_barrier(&heard) {
            return Err(ReadError::NoMajority);
        }
        let mut everything = Requirement::default();
        for heard in heard.iter().filter(|heard| heard.barriers) {
            everything.unite(&heard.holds);
        }
        // All counters may lack a batch although one of them holds its successor.
        Ok(everything.closed())
    }
}
