//! The time of day, for stamps that people and other machines read; and waits that mostly need no
//! timer.
//!
//! Invariant: nothing is decided by the time of day; waits use the runtime's own clock.

use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use tokio::time::error::Elapsed;

/// Milliseconds since the Unix epoch; 0 on a machine whose clock is before it.
#[must_use]
pub fn now_ms() -> u64 {
    since_epoch().as_millis() as u64
}

/// Nanoseconds since the Unix epoch, as exact as the system tells them; 0 on a machine whose clock
/// is before it.
#[must_use]
pub fn now_ns() -> u128 {
    since_epoch().as_nanos()
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Waits for what mostly is there already: a timer, which all workers share the lock of, is set
/// only if it is not.
///
/// # Errors
/// When it takes longer than `limit`.
pub async fn within<F: Future>(limit: Duration, awaited: F) -> Result<F::Output, Elapsed> {
    let mut awaited = pin!(awaited);
    match awaited.as_mut().now_or_never() {
        Some(output) => Ok(output),
        None => tokio::time::timeout(limit, awaited).await,
    }
}
