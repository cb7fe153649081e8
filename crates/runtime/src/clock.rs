//! Wall-clock timestamps for people and other machines, and timeouts that usually need no timer.
//!
//! Invariant: no decision depends on the wall clock. Timeouts use the runtime's monotonic clock.

use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use tokio::time::error::Elapsed;

/// Milliseconds since the Unix epoch; 0 if the machine's clock is before it.
#[must_use]
pub fn now_ms() -> u64 {
    since_epoch().as_millis() as u64
}

/// Nanoseconds since the Unix epoch, with the resolution of the system's clock; 0 if the machine's
/// clock is before it.
#[must_use]
pub fn now_ns() -> u128 {
    since_epoch().as_nanos()
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Waits for a future with a timeout. A timer is created only if the future is not ready at the
/// first poll: usually it is ready, and all workers contend for the lock of the timers.
///
/// # Errors
/// When the future takes longer than `limit`.
pub async fn within<F: Future>(limit: Duration, awaited: F) -> Result<F::Output, Elapsed> {
    let mut awaited = pin!(awaited);
    match awaited.as_mut().now_or_never() {
        Some(output) => Ok(output),
        None => tokio::time::timeout(limit, awaited).await,
    }
}
