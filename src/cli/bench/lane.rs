//! One connection's requests, one after the other.
//!
//! Invariant: every request that was made ends in the tally, as acknowledged or as in doubt. In a
//! closed loop a request that was not acknowledged is sent again, as it was, until it is or the run
//! is over.

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

/// The status of an answer that was asked for.
const OK: u16 = 200;
/// The statuses with which a coordinator asks to try again: too slow, or unavailable.
const TRY_AGAIN: [u16; 2] = [408, 503];
/// The wait before a request is sent again, if the answer names none.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest wait before a request is sent again, whatever the answer names.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long after the end of an open loop a request may still be sent that was due before it:
/// threads wake late.
const LATE_MAX: Duration = Duration::from_millis(5);
/// How long one request is sent again before the run fails.
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);

/// What all connections share.
pub(super) struct Shared {
    /// Times are counted from here.
    pub(super) origin: Instant,
    pub(super) window: Window,
    pub(super) work: Work,
    /// Without it, the loop is closed.
    pub(super) open: Option<OpenLoop>,
    /// Measured requests started, of a run that ends by their number.
    pub(super) started: AtomicU64,
    /// The run has failed: nobody starts anything.
    pub(super) stop: AtomicBool,
    /// Why.
    pub(super) error: Mutex<Option<BenchError>>,
}

/// A schedule, and who may send next.
pub(super) struct OpenLoop {
    pub(super) schedule: Schedule,
    /// Slots that are due and that nobody has taken.
    pub(super) due: Semaphore,
    /// Slots taken.
    pub(super) taken: AtomicU64,
}

impl Shared {
    /// Ends the run with an error; the first one stays.
    pub(super) fn fail(&self, error: BenchError) {
        self.error.lock().get_or_insert(error);
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// One connection at work.
pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    pub(super) plan: Plan,
    pub(super) wire: Wire,
    /// The results of this thread's lanes.
    pub(super) tally: Rc<RefCell<Tally>>,
}

/// What an answer means.
enum Meaning {
    Done { exact: bool },
    TryAgain(Duration),
}

impl Lane {
    /// Sends requests until the run is over.
    pub(super) async fn run(mut self) {
        // The time of an answer is that of the next request, which spares a look at the clock.
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

    /// When the next request starts, or was due; none once the run is over.
    async fn next_start(&self, now: Duration) -> Option<Duration> {
        let shared = &*self.shared;
        if let Some(open) = &shared.open {
            // It is never closed.
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

    /// Sends the request until it is acknowledged, and says whether the answer was exact; none if
    /// it is not acknowledged in the end.
    async fn until_done(&mut self, started: Duration) -> Option<bool> {
        loop {
            let asked = self.wire.ask(self.plan.request()).await;
            let pause = match asked.map(|answer| self.shared.meaning(&answer)) {
                Ok(Ok(Meaning::Done { exact })) => return Some(exact),
                Ok(Ok(Meaning::TryAgain(pause))) => {
                    self.tally.borrow_mut().refused += 1;
                    self.go_on(started, pause, &"always asked to try again later")
                }
                Ok(Err(error)) => {
                    self.shared.fail(error);
                    None
                }
                // Whatever is there, it will not become a coordinator.
                Err(WireError::Response(error)) => {
                    self.shared.fail(BenchError::NoAnswer(error.to_string()));
                    None
                }
                Err(error) => self.go_on(started, PAUSE, &error),
            };
            tokio::time::sleep(pause?).await;
        }
    }

    /// How long to wait before the request is sent again; none if it is not.
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
    /// What an answer means; an error if the same request would always be answered so.
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
