//! A counter of another process, asked over HTTP.
//!
//! Invariant: an answer is the counter's own, to the query asked; when none comes in time the counter counts as
//! unreachable. What waits is bounded: in number here, in time there.
//!
//! Queries for counts first go in groups ([lane]) and are answered nearly at once: a counter that commits patiently is
//! given the time to do so. One that is not covered then and may wait goes alone, as a request that the counter answers when it covers it. What demands a barrier or
//! a whole position goes alone from the beginning.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use reqwest::Response;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::lane::{self, Lane};
use super::node::{Address, Failure, NodeClient, Sent};
use super::{ClientError, cause};
use crate::counter::exchange::{
    CONTAINS_PATH, COUNTS_PATH, ContainsQuery, CountsAnswers, CountsGroup, CountsQuery, LIST_PATH,
    ListingQuery, Message, SNAPSHOT_PATH, STATUS_PATH, WAIT_MAX,
};
use crate::counter::{
    Counts, Demand, ListQuery, Listing, Membership, Peer, Queries, QueryError, SnapshotStream,
    Status,
};
use crate::model::{ClusterSecret, CounterName, ItemHash, TenantName};

/// How much longer than it may wait a counter may take to answer.
pub(super) const ANSWER_GRACE: Duration = Duration::from_secs(2);

/// How long a query may wait in its group, and keep the next group waiting: a commit that it has asked for takes less,
/// and a request of its own costs more than that.
const GROUP_WAIT: Duration = Duration::from_millis(10);

/// Requests under way whose answers wait until they are covered; more wait for a place.
const WAITING_MAX: usize = 64;

/// The same for those that demand barriers or a whole position. They don't stand behind the others: a counter that
/// is not complete leaves those waiting, and can prove a barrier all the same.
const PROVING_MAX: usize = 16;

/// Requests under way for single items and lists of tenants; more wait for a place.
const OTHERS_MAX: usize = 64;

/// How long a request goes on when nobody waits for it any more, because another counter was faster: cut at once,
/// it would cost its connection.
const ABANDONED_GRACE: Duration = Duration::from_millis(100);

/// How long a snapshot may take to begin, and each part of it to come.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(30);

/// A counter that is asked over HTTP.
pub struct RemoteCounter {
    name: CounterName,
    address: Address,
    lane: Lane,
    waiting: Arc<Semaphore>,
    proving: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl RemoteCounter {
    /// The counter `name` at `url`, where `secret` is shown. Must be called within a runtime.
    ///
    /// # Errors
    /// When `url` is no HTTP URL.
    pub fn new(
        name: CounterName,
        url: &str,
        secret: Option<ClusterSecret>,
        client: &NodeClient,
    ) -> Result<Self, ClientError> {
        let address = Address::new(&name, url, secret.as_ref(), client)?;
        Ok(Self {
            name,
            lane: Lane::start(address.clone(), &client.supervisor),
            address,
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            proving: Arc::new(Semaphore::new(PROVING_MAX)),
            others: Arc::new(Semaphore::new(OTHERS_MAX)),
        })
    }

    async fn counts_of(&self, query: CountsQuery) -> Result<Counts, QueryError> {
        let deadline = deadline(&query.demand);
        let demand = &query.demand;
        if !demand.barriers.is_empty() || demand.whole_position {
            return Ok(self.counts_alone(&self.proving, query, deadline).await?);
        }
        let mut shortly = query.clone();
        shortly.demand.wait = demand.wait.min(GROUP_WAIT);
        let grouped = timeout_at(deadline + ANSWER_GRACE, self.lane.ask(shortly))
            .await
            .unwrap_or(Err(Failure::TimedOut));
        let may_wait = Instant::now() < deadline;
        let early = match grouped {
            Ok(counts) if counts.cover.is_full() => return Ok(counts),
            Ok(counts) => Some(counts),
            Err(Failure::TimedOut) if may_wait => None,
            Err(failure) => return Err(failure.into()),
        };
        let late = match may_wait {
            true => self.counts_alone(&self.waiting, query, deadline).await,
            false => Err(Failure::TimedOut),
        };
        late.or_else(|failure| early.ok_or_else(|| failure.into()))
    }

    async fn counts_alone(
        &self,
        room: &Arc<Semaphore>,
        query: CountsQuery,
        deadline: Instant,
    ) -> Result<Counts, Failure> {
        let mut group = CountsGroup(vec![query]);
        let body = |wait| {
            for query in &mut group.0 {
                query.demand.wait = wait;
            }
            group.encode()
        };
        let answers: CountsAnswers = self.alone(room, deadline, COUNTS_PATH, body).await?;
        let mut answers = lane::check(&group, answers)?;
        answers.pop().unwrap_or(Err(Failure::TimedOut))
    }

    /// Sends one request once there is room for it; `body` hears how long the counter may wait.
    async fn alone<A: Message + Send + 'static>(
        &self,
        room: &Arc<Semaphore>,
        deadline: Instant,
        path: &'static str,
        body: impl FnOnce(Duration) -> Vec<u8>,
    ) -> Result<A, Failure> {
        let place = timeout_at(deadline + ANSWER_GRACE, Arc::clone(room).acquire_owned())
            .await
            .map_err(|_| Failure::unreachable("too many queries wait for it"))?
            .map_err(|_| Failure::TimedOut)?;
        let wait = deadline.saturating_duration_since(Instant::now());
        let sent = Sent::Post(body(wait).into());
        let address = self.address.clone();
        let (mut answer, answered) = oneshot::channel();
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
            .unwrap_or_else(|_| Err(Failure::unreachable("the asking has ended")))
    }
}

/// Until when a counter may wait, as far as one request can.
fn deadline(demand: &Demand) -> Instant {
    Instant::now() + demand.wait.min(WAIT_MAX)
}

impl Queries for RemoteCounter {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn counts(
        &self,
        tenants: Arc<[TenantName]>,
        demand: Demand,
    ) -> BoxFuture<'_, Result<Counts, QueryError>> {
        self.counts_of(CountsQuery { tenants, demand }).boxed()
    }

    fn contains(
        &self,
        tenant: TenantName,
        hash: ItemHash,
        demand: Demand,
    ) -> BoxFuture<'_, Result<Membership, QueryError>> {
        async move {
            let deadline = deadline(&demand);
            let body = |wait| {
                let demand = Demand { wait, ..demand };
                let query = ContainsQuery {
                    tenant,
                    hash,
                    demand,
                };
                query.encode()
            };
            Ok(self
                .alone(&self.others, deadline, CONTAINS_PATH, body)
                .await?)
        }
        .boxed()
    }

    fn list(
        &self,
        query: Arc<ListQuery>,
        demand: Demand,
    ) -> BoxFuture<'_, Result<Listing, QueryError>> {
        async move {
            let deadline = deadline(&demand);
            let limit = query.limit;
            let body = |wait| {
                let demand = Demand { wait, ..demand };
                let list = ListQuery::clone(&query);
                ListingQuery { list, demand }.encode()
            };
            let listing: Listing = self.alone(&self.others, deadline, LIST_PATH, body).await?;
            if listing.tenants.len() > limit {
                return Err(QueryError::Unreachable("it lists more than asked".into()));
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
                    // An error is the last that is heard.
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
        Err(_) => Err(QueryError::Unreachable("its snapshot has stalled".into())),
    }
}

#[cfg(test)]
#[path = "counter_tests.rs"]
mod tests;
