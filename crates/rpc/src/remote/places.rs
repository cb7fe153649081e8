//! Limits for requests to one remote counter: how many may be in flight, and how long each may wait
//! there.
//!
//! Invariant: a request that is answered at once or after a moment never waits behind one that
//! waits for coverage. A query without a permit for the latter has an answer when its time is up,
//! at the latest.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::counter::ANSWER_GRACE;
use super::node::Failure;
use crate::QueryError;
use headcount_telemetry as telemetry;

/// How long a query may wait in its first request, and how long a group of counts may delay the
/// next group. A commit that the query causes takes less time, and another request costs more.
pub(super) const MOMENT: Duration = Duration::from_millis(10);

/// Maximum requests in flight that are answered at once: single items, lists of tenants, whole
/// positions. Further ones wait for a permit. As many again may be answered after a
/// [moment](MOMENT).
const LOOK_UPS_MAX: usize = 64;

/// Maximum requests in flight that wait for coverage; further ones wait for a permit. Each uses a
/// connection.
const WAITING_MAX: usize = 128;

/// Maximum queries that have or wait for such a permit; further ones are rejected.
pub(super) const WAITING_HERE_MAX: usize = 1_024;

/// Interval at which a query that waits for a permit repeats its first request.
const ASK_AGAIN_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum requests in flight that wait for barriers; further ones wait for a permit. Their limit
/// is separate, because a counter that is not complete leaves the other requests waiting but can
/// still prove a barrier.
const PROVING_MAX: usize = 16;

/// The permits; see the module.
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

/// A query that has or waits for a permit to wait, as counted in the metric.
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
    /// A permit for a request that waits for barriers.
    pub(super) async fn proving(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Failure> {
        place(&self.proving, deadline).await
    }

    /// A permit for a request of what the counter has, and how long that request may wait: not at
    /// all if the counter is known to cover the requirement.
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

    /// Returns the early answer, if it covers the demand or the time is up; otherwise the late
    /// answer, once there is a permit for it. Until then, the early request is repeated at
    /// intervals.
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
                // The counter rejected the request before the query's time was up. The early answer
                // does not replace the wait that the query allows.
                (Err(Failure::Answer(QueryError::Busy)), _) => Err(busy()),
                (Err(_), Some(early)) => Ok(early),
                (late, _) => late,
            };
        }
    }
}

/// A permit of `room` for a query with a `deadline`.
async fn place(room: &Arc<Semaphore>, deadline: Instant) -> Result<OwnedSemaphorePermit, Failure> {
    timeout_at(deadline + ANSWER_GRACE, Arc::clone(room).acquire_owned())
        .await
        .map_err(|_| Failure::unreachable("too many queries are waiting for it"))?
        .map_err(|_| Failure::TimedOut)
}
