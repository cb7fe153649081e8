//! Waiting for conditions.
//!
//! Invariant: a wait ends when its condition holds, or fails at its deadline and says what was last
//! seen.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Between two looks.
const POLL: Duration = Duration::from_millis(50);

/// The longest wait for anything that the system does by itself: a start, a reconnect, a round of
/// catching up.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Looks until `look` gives a value; its error says what was seen instead.
#[track_caller]
pub fn until<T, F, Seen>(what: &str, look: F) -> impl Future<Output = T> + use<'_, T, F, Seen>
where
    F: AsyncFnMut() -> Result<T, Seen>,
    Seen: Debug,
{
    until_within(what, PATIENCE, look)
}

/// The same with a limit of its own.
#[track_caller]
pub fn until_within<T, F, Seen>(
    what: &str,
    limit: Duration,
    mut look: F,
) -> impl Future<Output = T> + use<'_, T, F, Seen>
where
    F: AsyncFnMut() -> Result<T, Seen>,
    Seen: Debug,
{
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + limit;
        loop {
            let seen = match look().await {
                Ok(value) => return value,
                Err(seen) => seen,
            };
            assert!(
                Instant::now() < deadline,
                "{caller}: waited {limit:?} for: {what}; last seen: {seen:?}"
            );
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The same for code without a runtime.
#[track_caller]
pub fn until_blocking<T, Seen: Debug>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, Seen>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        let seen = match look() {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        assert!(
            Instant::now() < deadline,
            "waited {limit:?} for: {what}; last seen: {seen:?}"
        );
        std::thread::sleep(POLL);
    }
}

/// How long a fault lasts, or a load runs between two.
pub fn phase() -> Duration {
    Duration::from_secs(if super::node::long() { 60 } else { 10 })
}

/// A step of a fault that has several.
pub fn step() -> Duration {
    phase() / 4
}
