//! A counter without room on its disk.
//!
//! Invariant: what found no room is not acknowledged and leaves no trace; the counter answers, and
//! goes on by itself once its store has room.
//!
//! Where appends wait for the commit they are told. Behind a broker everything that is not
//! acknowledged goes back to the queue, and nothing is consumed meanwhile: a delivery that is kept
//! for long would break the broker's `consumer_timeout`.

use super::pending::Pending;
use super::task::{CounterError, CounterTask};
use headcount_log::{Deliveries, DeliveryTag};
use headcount_store::Store;

impl<S: Store, D: Deliveries> CounterTask<S, D> {
    /// Refuses what is pending, which the store has forgotten, since there is no room: `why`.
    pub(super) fn refuse(&mut self, pending: &Pending, why: &str) {
        self.recorded.clear();
        let is_final = self.note_full(pending.up_to, why);
        if is_final {
            // Nothing that came before them waits any more.
            self.progress.note(&pending.barriers, |_| {});
        }
        // Its batches may be there though its generation is not.
        self.progress.changed();
    }

    /// Returns whether what is refused does not come again.
    fn note_full(&mut self, up_to: DeliveryTag, why: &str) -> bool {
        let told = format!("{why}; it goes on by itself once there is room");
        self.progress.set_full(Some(told));
        self.meters.full.set(1.0);
        self.deliveries.refuse(up_to, why)
    }

    /// Takes note of whether the store has room: it finds out by itself.
    pub(super) async fn look_at_room(&mut self) -> Result<(), CounterError> {
        match (self.store.full(), self.progress.is_full()) {
            (Some(why), false) => {
                // What waits finds no room either, and is refused.
                self.commit_pending().await?;
                if !self.progress.is_full() {
                    self.note_full(DeliveryTag::default(), &why);
                }
            }
            (None, true) => {
                self.progress.set_full(None);
                self.meters.full.set(0.0);
                self.deliveries.resume();
            }
            _ => {}
        }
        Ok(())
    }
}
