//! A counter of another process, asked over HTTP.
//!
//! Invariant: an answer is the counter's own, to the query asked; when none comes in time the counter counts as
//! unreachable. What waits is bounded: in number here, in time there. A query that need not wait never stands behind
//! those that do.
//!
//! Every query first asks for what the counter has: a single item, a list or a whole position as a request of its own,
//! counts in groups ([lane]). What is known to be covered goes in groups that are answered at once. Other counts go in
//! groups of their own that may take a moment: a counter that commits patiently is given the time to do so. Only what is
//! not covered then, and may wait, becomes a request that the counter answers when it covers it, and there are so many of
//! those at most. What demands a barrier goes alone from the beginning.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;
use reqwest::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::known::Known;
use super::lane::{self, Lane};
use super::node::{Address, Failure, NodeClient, Sent};
use super::{ClientError, cause};
use crate::counter::exchange::{
    CONTAINS_PATH, COUNTS_PATH, ContainsQuery, CountsAnswers, CountsGroup, CountsQuery, LIST_PATH,
    ListingQuery, Message, SNAPSHOT_PATH, STATUS_PATH, WAIT_MAX,
};
use crate::counter::{
    Counts, Cover, Demand, ListQuery, Listing, Membership, Peer, Queries, QueryError,
    SnapshotStream, Status,
};
use crate::model::{ClusterSecret, CounterName, ItemHash, TenantName};
use crate::telemetry;

/// How much longer than it may wait a counter may take to answer.
pub(super) const ANSWER_GRACE: Duration = Duration::from_secs(2);

/// How long a query may wait in its group, and keep the next group waiting: a commit that it has asked for takes less,
/// and a request of its own costs more than that.
const GROUP_WAIT: Duration = Duration::from_millis(10);

/// Requests under way that are answered at once: single items, lists of tenants, whole positions; more wait for a place.
const LOOK_UPS_MAX: usize = 64;

/// Requests under way whose answers wait until they are covered; more are refused. Each has a connection.
const WAITING_MAX: usize = 128;

/// Requests under way that wait for barriers; more wait for a place. They don't stand behind the others: a counter that
/// is not complete leaves those waiting, and can prove a barrier all the same.
const PROVING_MAX: usize = 16;

/// How long a request goes on when nobody waits for it any more, because another counter was faster: cut at once,
/// it would cost its connection.
const ABANDONED_GRACE: Duration = Duration::from_millis(100);

/// How long a snapshot may take to begin, and each part of it to come.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(30);

/// A counter that is asked over HTTP.
pub struct RemoteCounter {
    name: CounterName,
    address: Address,
    /// For counts that are known to be covered, or must not wait.
    at_once: Lane,
    /// For the other counts.
    shortly: Lane,
    look_ups: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    proving: Arc<Semaphore>,
    known: Mutex<Known>,
}

/// A place among requests that wait, shown as such.
struct Waiting {
    _place: OwnedSemaphorePermit,
}

impl Waiting {
    fn new(place: OwnedSemaphorePermit) -> Self {
        metrics::gauge!(telemetry::QUERIES_WAITING).increment(1.0);
        Self { _place: place }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        metrics::gauge!(telemetry::QUERIES_WAITING).decrement(1.0);
    }
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
            at_once: Lane::start(address.clone(), &client.supervisor),
            shortly: Lane::start(address.clone(), &client.supervisor),
            address,
            look_ups: Arc::new(Semaphore::new(LOOK_UPS_MAX)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            proving: Arc::new(Semaphore::new(PROVING_MAX)),
            known: Mutex::default(),
        })
    }

    async fn counts_of(&self, query: CountsQuery) -> Result<Counts, Failure> {
        let deadline = deadline(&query.demand);
        if !query.demand.barriers.is_empty() {
            let place = place(&self.proving, deadline).await?;
            return self.counts_alone(place, query, deadline).await;
        }
        let early = match query.demand.whole_position {
            true => {
                let place = place(&self.look_ups, deadline).await?;
                let at_once = Instant::now();
                self.counts_alone(place, query.clone(), at_once).await
            }
            false => self.counts_in_group(query.clone(), deadline).await,
        };
        if let Ok(counts) = &early {
            self.known.lock().note(&counts.cover);
        }
        let late = |place| self.counts_alone(place, query, deadline);
        self.or_wait(early, deadline, |counts| &counts.cover, late)
            .await
    }

    async fn counts_in_group(
        &self,
        mut query: CountsQuery,
        deadline: Instant,
    ) -> Result<Counts, Failure> {
        let demand = &mut query.demand;
        let is_known = self.known.lock().covers(&demand.requirement);
        let lane = match is_known || demand.wait.is_zero() {
            true => {
                demand.wait = Duration::ZERO;
                &self.at_once
            }
            false => {
                demand.wait = demand.wait.min(GROUP_WAIT);
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
        let mut answers = lane::check(&group, answers)?;
        answers.pop().unwrap_or(Err(Failure::TimedOut))
    }

    /// Asks for what the counter has; if that does not cover what it must, for what it has when it does. `body` hears how
    /// long the counter may wait.
    async fn look_up<A: Message + Send + 'static>(
        &self,
        path: &'static str,
        deadline: Instant,
        cover: impl Fn(&A) -> &Cover,
        body: impl Fn(Duration) -> Vec<u8>,
    ) -> Result<A, Failure> {
        let place = place(&self.look_ups, deadline).await?;
        let at_once = Duration::ZERO;
        let early = self.alone(place, at_once, path, body(at_once)).await;
        let late = |place| {
            let wait = deadline.saturating_duration_since(Instant::now());
            self.alone(place, wait, path, body(wait))
        };
        self.or_wait(early, deadline, cover, late).await
    }

    /// The early answer, if it covers what it must or nothing may wait any more; otherwise the late one, for which there
    /// must be a place among those that wait.
    async fn or_wait<A, F: Future<Output = Result<A, Failure>>>(
        &self,
        early: Result<A, Failure>,
        deadline: Instant,
        cover: impl Fn(&A) -> &Cover,
        late: impl FnOnce(Waiting) -> F,
    ) -> Result<A, Failure> {
        let may_wait = Instant::now() < deadline;
        let early = match early {
            Ok(answer) if !may_wait || cover(&answer).is_full() => return Ok(answer),
            Ok(answer) => Some(answer),
            Err(Failure::TimedOut) if may_wait => None,
            Err(failure) => return Err(failure),
        };
        let busy = || Failure::Answer(QueryError::Busy);
        let place = Arc::clone(&self.waiting).try_acquire_owned();
        let place = place.map_err(|_| busy())?;
        match (late(Waiting::new(place)).await, early) {
            // It was answered before its time was up, so it has not had what it may have: an answer.
            (Err(Failure::Answer(QueryError::Busy)), _) => Err(busy()),
            (Err(_), Some(early)) => Ok(early),
            (late, _) => late,
        }
    }

    /// Sends one request, whose place is free again when it has ended.
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

/// A place in `room` for a query that has until `deadline`.
async fn place(room: &Arc<Semaphore>, deadline: Instant) -> Result<OwnedSemaphorePermit, Failure> {
    timeout_at(deadline + ANSWER_GRACE, Arc::clone(room).acquire_owned())
        .await
        .map_err(|_| Failure::unreachable("too many queries wait for it"))?
        .map_err(|_| Failure::TimedOut)
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
        async move { Ok(self.counts_of(CountsQuery { tenants, demand }).await?) }.boxed()
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
                let query = ContainsQuery {
                    tenant: tenant.clone(),
                    hash,
                    demand: Demand {
                        wait,
                        ..demand.clone()
                    },
                };
                query.encode()
            };
            let cover: fn(&Membership) -> &Cover = |membership| &membership.cover;
            Ok(self.look_up(CONTAINS_PATH, deadline, cover, body).await?)
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
                let demand = Demand {
                    wait,
                    ..demand.clone()
                };
                let list = ListQuery::clone(&query);
                ListingQuery { list, demand }.encode()
            };
            let cover: fn(&Listing) -> &Cover = |listing| &listing.cover;
            let listing = self.look_up(LIST_PATH, deadline, cover, body).await?;
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

#[cfg(test)]
#[path = "waiting_tests.rs"]
mod waiting_tests;
