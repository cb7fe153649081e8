//! Places for requests to one counter elsewhere: how many may be under way, and how long each may
//! wait there.
//!
//! Invariant: a request that is answered at once or after a moment never waits behind one that
//! waits until it is covered; a query without a place among those has an answer at the latest when
//! its time is up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::counter::ANSWER_GRACE;
use super::node::Failure;
use crate::QueryError;
use headcount_telemetry as telemetry;

/// How long a query may wait at first, and a group of counts keep the next one waiting: a commit
/// that it has asked for takes less, and another request costs more than that.
pub(super) const MOMENT: Duration = Duration::from_millis(10);

/// Requests under way that are answered at once: single items, lists of tenants, whole positions;
/// more wait for a place. As many again may be answered after a [moment](MOMENT).
const LOOK_UPS_MAX: usize = 64;

/// Requests under way whose answers wait until they are covered; more wait for a place. Each has a
/// connection.
pub const WAITING_MAX: usize = 128;

/// Queries that have, or wait for, a place among those; more are refused.
pub(super) const WAITING_HERE_MAX: usize = 1_024;

/// How often a query that waits for a place asks again for what the counter has.
const ASK_AGAIN_INTERVAL: Duration = Duration::from_millis(500);

/// Requests under way that wait for barriers; more wait for a place. They don't stand behind the
/// others: a counter that is not complete leaves those waiting, and can prove a barrier all the
/// same.
const PROVING_MAX: usize = 16;

/// See the module.
pub(super) struct Places {
    look_ups: Arc<Semaphore>,
    moments: Arc<Semaphore>,
    pub(super) waiting: Arc<Semaphore>,
    pub(super) waiting_here: Semaphore,
    proving: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            look_ups: Arc::new(Semaphore::new(LOOK_UPS_MAX)),
            moments: Arc::new(Semaphore::new(LOOK_UPS_MAX)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            waiting_here: Semaphore::new(WAITING_HERE_MAX),
            proving: Arc::new(Semaphore::new(PROVING_MAX)),
        }
    }
}

/// A query that has, or waits for, a place among requests that wait, shown as such.
struct Waiting<'c> {
    _here: SemaphorePermit<'c>,
}

impl<'c> Waiting<'c> {
    fn new(here: SemaphorePermit<'c>) -> Self {
        metrics::gauge!(telemetry::QUERIES_WAITING).increment(1.0);
        Self { _here: here }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        metrics::gauge!(telemetry::QUERIES_WAITING).decrement(1.0);
    }
}

impl Places {
    /// A place for a request that waits for barriers.
    pub(super) async fn proving(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Failure> {
        place(&self.proving, deadline).await
    }

    /// A place for a request of what the counter has, and how long that may take: no time where it
    /// is known to cover what it must.
    pub(super) async fn early(
        &self,
        is_known: bool,
        deadline: Instant,
    ) -> Result<(OwnedSemaphorePermit, Duration), Failure> {
        let wait = deadline.saturating_duration_since(Instant::now());
        let at_once = is_known || wait.is_zero();
        match at_once {
            true => Ok((place(&self.look_ups, deadline).await?, Duration::ZERO)),
            false => Ok((place(&self.moments, deadline).await?, wait.min(MOMENT))),
        }
    }

    /// The early answer, if it covers what it must or nothing may wait any more; otherwise the late
    /// one, once there is a place among those that wait. Until then it is asked early again from
    /// time to time.
    pub(super) async fn early_or_late<A, E, L>(
        &self,
        deadline: Instant,
        is_full: impl Fn(&A) -> bool,
        ask_early: impl Fn() -> E,
        ask_late: impl Fn(OwnedSemaphorePermit) -> L,
    ) -> Result<A, Failure>
    where
        E: Future<Output = Result<A, Failure>>,
        L: Future<Output = Result<A, Failure>>,
    {
        let busy = || Failure::Answer(QueryError::Busy);
        let mut waiting = None;
        loop {
            let early = ask_early().await;
            let may_wait = Instant::now() < deadline;
            let early = match early {
                Ok(answer) if is_full(&answer) || !may_wait => return Ok(answer),
                Ok(answer) => Some(answer),
                Err(Failure::TimedOut) if may_wait => None,
                Err(failure) => return Err(failure),
            };
            if waiting.is_none() {
                let here = self.waiting_here.try_acquire().map_err(|_| busy())?;
                waiting = Some(Waiting::new(here));
            }
            let until = deadline.min(Instant::now() + ASK_AGAIN_INTERVAL);
            let place = timeout_at(until, Arc::clone(&self.waiting).acquire_owned()).await;
            let Ok(Ok(place)) = place else {
                match early {
                    Some(answer) if Instant::now() >= deadline => return Ok(answer),
                    _ => continue,
                }
            };
            return match (ask_late(place).await, early) {
                // It was answered before its time was up, so it has not had what it may have: an
                // answer.
                (Err(Failure::Answer(QueryError::Busy)), _) => Err(busy()),
                (Err(_), Some(early)) => Ok(early),
                (late, _) => late,
            };
        }
    }
}

/// A place in `room` for a query that has until `deadline`.
async fn place(room: &Arc<Semaphore>, deadline: Instant) -> Result<OwnedSemaphorePermit, Failure> {
    timeout_at(deadline + ANSWER_GRACE, Arc::clone(room).acquire_owned())
        .await
        .map_err(|_| Failure::unreachable("too many queries wait for it"))?
        .map_err(|_| Failure::TimedOut)
}
