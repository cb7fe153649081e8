//! The timer of a connection, which stays registered from one request to the next.
//!
//! Invariant: a sleep ends no earlier than its deadline, and its waiter is woken then.
//!
//! The HTTP library sets a timer for the head of each request and cancels it when the head has
//! arrived. Each of these operations takes the lock of the runtime's timers, which all workers
//! share. Moving a registered timer to a later time takes no lock, so the timer is kept instead of
//! cancelled.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;

type Kept = Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>;

/// The timer of one connection. Its sleeps usually follow one another and reuse one Tokio timer.
#[derive(Default)]
pub(super) struct ConnectionTimer {
    kept: Kept,
}

/// A sleep whose Tokio timer is returned to its connection on drop.
struct Borrowed {
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    kept: Kept,
}

impl Timer for ConnectionTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let deadline = deadline.into();
        let sleep = match self.kept.lock().take() {
            Some(mut sleep) => {
                sleep.as_mut().reset(deadline);
                sleep
            }
            None => Box::pin(tokio::time::sleep_until(deadline)),
        };
        Box::pin(Borrowed {
            sleep: Some(sleep),
            kept: Arc::clone(&self.kept),
        })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

impl Sleep for Borrowed {}

impl Future for Borrowed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(context),
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        *self.kept.lock() = self.sleep.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn each_sleep_ends_when_it_should_though_the_timer_is_kept() {
        let timer = ConnectionTimer::default();
        // A sleep that is dropped early, a later one, an earlier one, a much later one that is
        // dropped early, and one before that.
        let far = LONG.div_duration_f64(STEP) as u32;
        for (awaited, steps) in [(false, 5), (true, 3), (true, 1), (false, far), (true, 2)] {
            let begun = timer.now();
            let sleep = timer.sleep(STEP * steps);
            if awaited {
                tokio::time::timeout(LONG, sleep).await.expect("it ends");
                assert!(timer.now() - begun >= STEP * steps, "it ended too early");
            } else {
                let polled = tokio::time::timeout(Duration::ZERO, sleep).await;
                assert!(polled.is_err(), "it ended at once");
            }
        }
    }

    #[tokio::test]
    async fn two_sleeps_at_once_both_end() {
        let timer = ConnectionTimer::default();
        drop(timer.sleep(STEP));
        let both = async { tokio::join!(timer.sleep(STEP), timer.sleep(2 * STEP)) };
        tokio::time::timeout(LONG, both).await.expect("they end");
    }
}
