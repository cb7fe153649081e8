//! A counter with a full disk.
//!
//! Invariant: a delivery that finds no room is not acknowledged and leaves no trace. The counter
//! answers queries meanwhile, and resumes automatically once its store has room.
//!
//! Where appends wait for the commit, they get an error. Behind a broker, all unacknowledged
//! deliveries return to the queue, and nothing is consumed until there is room: a delivery that is
//! held for long would exceed the broker's `consumer_timeout`.

use super::pending::Pending;
use super::task::{CounterError, CounterTask};
use headcount_log::{Deliveries, DeliveryTag};
use headcount_store::Store;

impl<S: Store, D: Deliveries> CounterTask<S, D> {
    /// Refuses the pending deliveries, which the store has discarded because of `why`: no room.
    pub(super) fn refuse(&mut self, pending: &Pending, why: &str) {
        self.recorded.clear();
        let is_final = self.note_full(pending.up_to, why);
        if is_final {
            // Nothing before these barriers waits for room.
            self.progress.note(&pending.barriers, |_| {});
        }
        // The batches may be committed even if the generation is not.
        self.progress.changed();
    }

    /// Records that the disk is full and refuses deliveries. Returns whether they are dropped, not
    /// redelivered.
    fn note_full(&mut self, up_to: DeliveryTag, why: &str) -> bool {
        let told = format!("{why}; the counter resumes automatically once there is room");
        self.progress.set_full(Some(told));
        self.meters.full.set(1.0);
        self.deliveries.refuse(up_to, why)
    }

    /// Records whether the store has room, which the store detects.
    pub(super) async fn look_at_room(&mut self) -> Result<(), CounterError> {
        match (self.store.full(), self.progress.is_full()) {
            (Some(why), false) => {
                // The pending deliveries find no room either, and are refused.
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
