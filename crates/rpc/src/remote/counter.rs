//! The client of a counter in another process, over HTTP.
//!
//! Invariant: an answer is the counter's own, to the query that was sent; a counter that does not
//! answer in time is reported as unreachable. The queries that wait are limited: in number here, in
//! time at the counter. A query that does not have to wait never queues behind queries that do.
//!
//! Every query first requests what the counter has: a single item, a list or a whole position in a
//! request of its own, counts in groups ([`query_batcher`]). If the requirement is known to be
//! covered, that request does not wait at the counter. Other queries let the counter wait for a
//! moment, in separate requests and groups; a counter that delays its commits then commits at once.
//! Only a query that is not covered then, and may wait longer, becomes a request that the counter
//! answers once it covers the requirement. The number of such requests is limited. Further queries
//! wait here for a permit and repeat the first request meanwhile, so that the requests with a
//! permit keep no query from an answer that is available. A query that demands a barrier has a
//! request of its own from the start.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;
use reqwest::Response;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::known::Known;
use super::node::{Address, Failure, NodeClient, Sent};
use super::places::{MOMENT, Places};
use super::query_batcher::{self, QueryBatcher};
use super::{ClientError, cause};
use crate::messages::{
    CONTAINS_PATH, COUNTS_PATH, ContainsQuery, CountsAnswers, CountsGroup, CountsQuery, LIST_PATH,
    ListingQuery, Message, SNAPSHOT_PATH, STATUS_PATH, WAIT_MAX,
};
use crate::{
    Contains, Counts, Coverage, ListQuery, Listing, Peer, Queries, QueryError, ReadRequirement,
    SnapshotStream, Status,
};
use headcount_model::{ClusterSecret, CounterName, ItemHash, Requirement, TenantName};

/// How long a counter may take to answer, in addition to the time that it may wait.
pub(super) const ANSWER_GRACE: Duration = Duration::from_secs(2);

/// How long a request continues when its caller is gone, because another counter was faster.
/// Cancelling it at once would cost its connection.
const ABANDONED_GRACE: Duration = Duration::from_millis(100);

/// Timeout for a snapshot to begin, and for each part of it.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(30);

/// A counter that is queried over HTTP.
pub struct RemoteCounter {
    name: CounterName,
    address: Address,
    /// Counts that are known to be covered, or must not wait.
    at_once: QueryBatcher,
    /// The other counts.
    shortly: QueryBatcher,
    places: Places,
    known: Mutex<Known>,
}

impl RemoteCounter {
    /// A client of the counter `name` at `url`. Its requests show `secret`. Must be called within a
    /// runtime.
    ///
    /// # Errors
    /// If `url` is not an HTTP URL.
    pub fn new(
        name: CounterName,
        url: &str,
        secret: Option<ClusterSecret>,
        client: &NodeClient,
    ) -> Result<Self, ClientError> {
        let address = Address::new(&name, url, secret.as_ref(), client)?;
        Ok(Self {
            name,
            at_once: QueryBatcher::start(address.clone(), &client.supervisor),
            shortly: QueryBatcher::start(address.clone(), &client.supervisor),
            address,
            places: Places::default(),
            known: Mutex::default(),
        })
    }

    async fn counts_of(&self, query: CountsQuery) -> Result<Counts, Failure> {
        let deadline = deadline(&query.demand);
        if !query.demand.barriers.is_empty() {
            let place = self.places.proving(deadline).await?;
            return self.counts_alone(place, query, deadline).await;
        }
        let early = || async {
            if !query.demand.whole_position {
                return self.counts_in_group(query.clone(), deadline).await;
            }
            let is_known = self.is_known(&query.demand.requirement);
            let (place, wait) = self.places.early(is_known, deadline).await?;
            let until = Instant::now() + wait;
            self.counts_alone(place, query.clone(), until).await
        };
        let late = |place| self.counts_alone(place, query.clone(), deadline);
        let is_full = |counts: &Counts| self.note(&counts.cover);
        self.places
            .early_or_late(deadline, is_full, early, late)
            .await
    }

    /// Whether the counter is known to cover this, from earlier answers.
    fn is_known(&self, requirement: &Requirement) -> bool {
        self.known.lock().covers(requirement)
    }

    /// Records the coverage of an answer. Returns whether it covers the demand.
    fn note(&self, cover: &Coverage) -> bool {
        self.known.lock().note(cover);
        cover.is_full()
    }

    async fn counts_in_group(
        &self,
        mut query: CountsQuery,
        deadline: Instant,
    ) -> Result<Counts, Failure> {
        let demand = &mut query.demand;
        let is_known = self.is_known(&demand.requirement);
        let lane = match is_known || demand.wait.is_zero() {
            true => {
                demand.wait = Duration::ZERO;
                &self.at_once
            }
            false => {
                demand.wait = demand.wait.min(MOMENT);
                &self.shortly
            }
        };
        timeout_at(deadline + ANSWER_GRACE, lane.ask(query))
            .await
            .unwrap_or(Err(Failure::TimedOut))
    }

    async fn counts_alone<P: Send + 'static>(
        &self,
        place: P,
        mut query: CountsQuery,
        deadline: Instant,
    ) -> Result<Counts, Failure> {
        let wait = deadline.saturating_duration_since(Instant::now());
        query.demand.wait = wait;
        let group = CountsGroup(vec![query]);
        let asked = self.alone(place, wait, COUNTS_PATH, group.encode());
        let answers: CountsAnswers = asked.await?;
        let mut answers = query_batcher::check(&group, answers)?;
        answers.pop().unwrap_or(Err(Failure::TimedOut))
    }

    /// Requests what the counter has. If that does not cover the requirement, requests it again
    /// once it does. `body` receives how long the counter may wait.
    async fn look_up<A: Message + Send + 'static>(
        &self,
        path: &'static str,
        requirement: &Requirement,
        deadline: Instant,
        cover: impl Fn(&A) -> &Coverage,
        body: impl Fn(Duration) -> Vec<u8>,
    ) -> Result<A, Failure> {
        let early = || async {
            let is_known = self.is_known(requirement);
            let (place, wait) = self.places.early(is_known, deadline).await?;
            self.alone(place, wait, path, body(wait)).await
        };
        let late = |place| {
            let wait = deadline.saturating_duration_since(Instant::now());
            self.alone(place, wait, path, body(wait))
        };
        let is_full = |answer: &A| self.note(cover(answer));
        self.places
            .early_or_late(deadline, is_full, early, late)
            .await
    }

    /// Sends one request. Its permit is released when the request has ended.
    async fn alone<A: Message + Send + 'static, P: Send + 'static>(
        &self,
        place: P,
        wait: Duration,
        path: &'static str,
        body: Vec<u8>,
    ) -> Result<A, Failure> {
        let sent = Sent::Post(body.into());
        let address = self.address.clone();
        let (mut answer, answered) = oneshot::channel();
        #[expect(
            clippy::disallowed_methods,
            reason = "one request; its caller gets an error if it is gone"
        )]
        tokio::spawn(async move {
            let _place = place;
            let result = tokio::select! {
                result = address.ask(path, sent, wait + ANSWER_GRACE) => result,
                () = async { answer.closed().await; sleep(ABANDONED_GRACE).await } => return,
            };
            let _ = answer.send(result);
        });
        answered
            .await
            .unwrap_or_else(|_| Err(Failure::unreachable("the request task has ended")))
    }
}

/// The deadline until which a counter may wait, within the limit of one request.
fn deadline(demand: &ReadRequirement) -> Instant {
    Instant::now() + demand.wait.min(WAIT_MAX)
}

impl Queries for RemoteCounter {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn counts(
        &self,
        tenants: Arc<[TenantName]>,
        demand: ReadRequirement,
    ) -> BoxFuture<'_, Result<Counts, QueryError>> {
        async move { Ok(self.counts_of(CountsQuery { tenants, demand }).await?) }.boxed()
    }

    fn contains(
        &self,
        tenant: TenantName,
        hash: ItemHash,
        demand: ReadRequirement,
    ) -> BoxFuture<'_, Result<Contains, QueryError>> {
        async move {
            let deadline = deadline(&demand);
            let body = |wait| {
                let query = ContainsQuery {
                    tenant: tenant.clone(),
                    hash,
                    demand: ReadRequirement {
                        wait,
                        ..demand.clone()
                    },
                };
                query.encode()
            };
            let cover: fn(&Contains) -> &Coverage = |membership| &membership.cover;
            let required = &demand.requirement;
            Ok(self
                .look_up(CONTAINS_PATH, required, deadline, cover, body)
                .await?)
        }
        .boxed()
    }

    fn list(
        &self,
        query: Arc<ListQuery>,
        demand: ReadRequirement,
    ) -> BoxFuture<'_, Result<Listing, QueryError>> {
        async move {
            let deadline = deadline(&demand);
            let limit = query.limit;
            let body = |wait| {
                let demand = ReadRequirement {
                    wait,
                    ..demand.clone()
                };
                let list = ListQuery::clone(&query);
                ListingQuery { list, demand }.encode()
            };
            let cover: fn(&Listing) -> &Coverage = |listing| &listing.cover;
            let required = &demand.requirement;
            let listing = self
                .look_up(LIST_PATH, required, deadline, cover, body)
                .await?;
            if listing.tenants.len() > limit {
                return Err(QueryError::Unreachable(
                    "the list exceeds the requested limit".into(),
                ));
            }
            Ok(listing)
        }
        .boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<Status, QueryError>> {
        async move {
            Ok(self
                .address
                .ask(STATUS_PATH, Sent::Get, ANSWER_GRACE)
                .await?)
        }
        .boxed()
    }
}

impl Peer for RemoteCounter {
    fn snapshot(&self) -> BoxFuture<'_, Result<SnapshotStream, QueryError>> {
        async move {
            let begun = timeout(
                SNAPSHOT_TIMEOUT,
                self.address.send(SNAPSHOT_PATH, Sent::Get),
            );
            let response = begun.await.unwrap_or(Err(Failure::TimedOut))?;
            let parts = stream::unfold(Some(response), async |response| {
                let mut response = response?;
                match next_part(&mut response).await {
                    Ok(part) => Some((Ok(part?), Some(response))),
                    // Nothing follows an error.
                    Err(error) => Some((Err(error), None)),
                }
            });
            Ok(parts.boxed())
        }
        .boxed()
    }
}

async fn next_part(response: &mut Response) -> Result<Option<Bytes>, QueryError> {
    match timeout(SNAPSHOT_TIMEOUT, response.chunk()).await {
        Ok(Ok(part)) => Ok(part),
        Ok(Err(error)) => Err(QueryError::Unreachable(cause(&error))),
        Err(_) => Err(QueryError::Unreachable("the snapshot stalled".into())),
    }
}

#[cfg(feature = "test-util")]
impl RemoteCounter {
    /// The permits of requests that wait, and of queries that wait for such a permit or have one.
    #[must_use]
    pub fn waiting_places(&self) -> (&tokio::sync::Semaphore, &tokio::sync::Semaphore) {
        (&self.places.waiting, &self.places.waiting_here)
    }
}

#[cfg(test)]
#[path = "counter_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "waiting_tests.rs"]
mod waiting_tests;
