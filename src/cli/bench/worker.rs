//! Sends the requests of one connection, one after the other.
//!
//! Invariant: every request ends in the tally, as acknowledged or in doubt. In a closed loop, a
//! request that was not acknowledged is sent again unchanged until it is acknowledged or the run is
//! over.

use std::cell::RefCell;
use std::fmt::Display;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::BenchError;
use super::plan::{Plan, Work};
use super::response::{detail, is_exact};
use super::schedule::{Length, Schedule, Window};
use super::tally::Tally;
use super::wire::{Wire, WireError};

/// Status of a successful response.
const OK: u16 = 200;
/// Statuses that ask for a retry: too slow, or unavailable.
const TRY_AGAIN: [u16; 2] = [408, 503];
/// Delay before a retry if the response names none.
const PAUSE: Duration = Duration::from_millis(100);
/// Maximum delay before a retry, even if the response names a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Time after the end of an open loop in which a request that was due before the end may still be
/// sent: threads wake up late.
const LATE_MAX: Duration = Duration::from_millis(5);
/// Maximum time to retry one request before the run fails.
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);

/// State shared by all connections.
pub(super) struct Shared {
    /// Start of the run; times are relative to it.
    pub(super) origin: Instant,
    pub(super) window: Window,
    pub(super) work: Work,
    /// The schedule of an open loop; `None` in a closed loop.
    pub(super) open: Option<OpenLoop>,
    /// Number of measured requests started, in a run with a fixed number of requests.
    pub(super) started: AtomicU64,
    /// Whether the run has failed; no request starts after that.
    pub(super) stop: AtomicBool,
    /// The reason.
    pub(super) error: Mutex<Option<BenchError>>,
}

/// A schedule, and the slots that connections may take.
pub(super) struct OpenLoop {
    pub(super) schedule: Schedule,
    /// Slots that are due and not taken.
    pub(super) due: Semaphore,
    /// Number of slots taken.
    pub(super) taken: AtomicU64,
}

impl Shared {
    /// Ends the run with an error; the first error is kept.
    pub(super) fn fail(&self, error: BenchError) {
        self.error.lock().get_or_insert(error);
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A connection that sends requests.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) plan: Plan,
    pub(super) wire: Wire,
    /// The results of all workers of this thread.
    pub(super) tally: Rc<RefCell<Tally>>,
}

/// The meaning of a response.
enum Meaning {
    Done { exact: bool },
    TryAgain(Duration),
}

impl Worker {
    /// Sends requests until the run is over.
    pub(super) async fn run(mut self) {
        // The time of a response is also the start of the next request, which saves reading the
        // clock.
        let mut now = self.shared.origin.elapsed();
        while let Some(started) = self.next_start(now).await {
            self.plan.advance();
            let done = self.until_done(started).await;
            now = self.shared.origin.elapsed();
            match done {
                Some(exact) => self.note_done(started, now, exact),
                None => self.note_doubt(),
            }
        }
        self.tally.borrow_mut().reconnects += self.wire.reconnects;
    }

    /// The time when the next request starts, or was due. `None` once the run is over.
    async fn next_start(&self, now: Duration) -> Option<Duration> {
        let shared = &*self.shared;
        if let Some(open) = &shared.open {
            // The semaphore is never closed.
            open.due.acquire().await.ok()?.forget();
            let now = shared.origin.elapsed();
            if shared.is_stopped() || shared.window.is_over(now.saturating_sub(LATE_MAX)) {
                return None;
            }
            let slot = open.taken.fetch_add(1, Ordering::Relaxed);
            return (slot < open.schedule.slots).then(|| open.schedule.due(slot));
        }
        if let Length::Requests(requests) = shared.window.length
            && shared.window.is_measured(now)
            && shared.started.fetch_add(1, Ordering::Relaxed) >= requests
        {
            return None;
        }
        (!shared.is_stopped() && !shared.window.is_over(now)).then_some(now)
    }

    /// Sends the request until it is acknowledged. Returns whether the response was exact, or
    /// `None` if the request was never acknowledged.
    async fn until_done(&mut self, started: Duration) -> Option<bool> {
        loop {
            let asked = self.wire.ask(self.plan.request()).await;
            let pause = match asked.map(|answer| self.shared.meaning(&answer)) {
                Ok(Ok(Meaning::Done { exact })) => return Some(exact),
                Ok(Ok(Meaning::TryAgain(pause))) => {
                    self.tally.borrow_mut().refused += 1;
                    self.go_on(started, pause, &"every response asked for a retry")
                }
                Ok(Err(error)) => {
                    self.shared.fail(error);
                    None
                }
                // The server is not a coordinator, so a retry can't succeed.
                Err(WireError::Response(error)) => {
                    self.shared.fail(BenchError::NoAnswer(error.to_string()));
                    None
                }
                Err(error) => self.go_on(started, PAUSE, &error),
            };
            tokio::time::sleep(pause?).await;
        }
    }

    /// The delay before the request is sent again; `None` if it is not sent again.
    fn go_on(&self, started: Duration, pause: Duration, why: &dyn Display) -> Option<Duration> {
        let shared = &*self.shared;
        let now = shared.origin.elapsed();
        if shared.open.is_some() || shared.is_stopped() || shared.window.is_over(now + pause) {
            return None;
        }
        if now.saturating_sub(started) > GIVE_UP_AFTER {
            shared.fail(BenchError::NoAnswer(why.to_string()));
            return None;
        }
        Some(pause)
    }

    fn note_done(&self, started: Duration, now: Duration, exact: bool) {
        let mut tally = self.tally.borrow_mut();
        let new = self.plan.new_tenants();
        let distinct = new.len() as u64;
        for tenant in new {
            tally.acked[tenant as usize] += 1;
        }
        let window = &self.shared.window;
        if window.is_measured(started) {
            tally.took(now.saturating_sub(started));
        }
        if window.is_counted(started, now) {
            tally.requests += 1;
            tally.items += self.plan.items();
            tally.distinct += distinct;
            tally.not_exact += u64::from(!exact);
            tally.last = tally.last.max(now);
        }
    }

    fn note_doubt(&self) {
        let mut tally = self.tally.borrow_mut();
        tally.in_doubt += 1;
        for tenant in self.plan.new_tenants() {
            tally.doubtful[tenant as usize] += 1;
        }
    }
}

impl Shared {
    /// The meaning of a response; an error if a retry would get the same response.
    fn meaning(&self, answer: &super::wire::Answer<'_>) -> Result<Meaning, BenchError> {
        let status = answer.head.status;
        if status == OK {
            let exact = self.work == Work::Items || is_exact(answer.body);
            return Ok(Meaning::Done { exact });
        }
        if TRY_AGAIN.contains(&status) {
            let named = answer.head.retry_after_s.map(Duration::from_secs);
            return Ok(Meaning::TryAgain(named.unwrap_or(PAUSE).min(PAUSE_MAX)));
        }
        Err(BenchError::Refused {
            status,
            detail: detail(answer.body),
        })
    }
}
