//! A counter on a broker of our own, which has a standing instead of a store.
//!
//! Invariant: what it takes changes its standing before it is acknowledged, as with a real counter.

use std::sync::Arc;
use std::time::Duration;

use headcount::log::amqp::{
    AmqpDeliveries, AmqpOptions, Announcement, ConsumerStatus, Presence, Role,
};
use headcount::log::{Delivered, Deliveries, Delivery, DeliveryError, StoreStatus};
use headcount::model::Batch;
use parking_lot::Mutex;

use crate::amqp::name;
use crate::log::PATIENCE;

/// A counter whose store is only its standing.
pub struct Counter {
    pub deliveries: AmqpDeliveries,
    /// What came while nobody waited for it.
    early: Option<Result<Option<Delivery>, DeliveryError>>,
    pub standing: Arc<Mutex<StoreStatus>>,
    _presence: Presence,
    _following: tokio::task::JoinHandle<()>,
}

impl Counter {
    /// Starts one that speaks of itself by way of `speaking`, and consumes by way of `consuming`.
    pub fn start(
        speaking: AmqpOptions,
        consuming: AmqpOptions,
        text: &str,
        standing: Arc<Mutex<StoreStatus>>,
    ) -> Self {
        let started = Arc::new(Mutex::new(None));
        let announce = {
            let (standing, started) = (Arc::clone(&standing), Arc::clone(&started));
            let text = text.to_owned();
            move || Announcement {
                role: Role::Counter,
                name: text.clone(),
                holds_position: standing.lock().holds_position,
                started: *started.lock(),
                ..Announcement::default()
            }
        };
        let node = format!("{text}-{:p}", Arc::as_ptr(&standing));
        let presence = Presence::start(speaking, node, Arc::new(announce));
        let ask = {
            let standing = Arc::clone(&standing);
            Arc::new(move || *standing.lock())
        };
        let deliveries = AmqpDeliveries::start(consuming, name(text), ask, presence.nodes());
        let mut status = deliveries.status();
        let following = tokio::spawn(async move {
            while status.changed().await.is_ok() {
                *started.lock() = status.borrow_and_update().started;
            }
        });
        Self {
            deliveries,
            early: None,
            standing,
            _presence: presence,
            _following: following,
        }
    }

    /// What comes next that is not of the generation: that, a counter remembers by the way.
    pub async fn next(&mut self) -> Result<Option<Delivery>, DeliveryError> {
        let next = tokio::time::timeout(PATIENCE, self.following());
        next.await.expect("something in time")
    }

    async fn following(&mut self) -> Result<Option<Delivery>, DeliveryError> {
        if let Some(early) = self.early.take() {
            return early;
        }
        loop {
            match self.deliveries.next().await {
                Ok(Some(Delivery {
                    tag,
                    delivered: Delivered::Generation(kept),
                })) => {
                    self.standing.lock().generation = Some(kept);
                    self.deliveries.acknowledge(tag).await;
                }
                other => return other,
            }
        }
    }

    /// Nothing comes for so long.
    pub async fn stays_quiet(&mut self, time: Duration) {
        let early = tokio::time::timeout(time, self.following()).await;
        assert!(early.is_err(), "{early:?}");
    }

    /// Commits what comes next to the standing and acknowledges it.
    pub async fn take(&mut self) -> Delivered {
        let delivery = self.next().await.expect("it goes on");
        let Delivery { tag, delivered } = delivery.expect("not the end");
        {
            let mut standing = self.standing.lock();
            match &delivered {
                Delivered::Batches(_) => standing.holds_position = true,
                Delivered::HistoryComplete => standing.complete = true,
                Delivered::PossibleLoss { .. } => standing.complete = false,
                Delivered::Generation(kept) => standing.generation = Some(*kept),
            }
        }
        self.deliveries.acknowledge(tag).await;
        delivered
    }

    pub async fn begins(&mut self) {
        assert_eq!(self.take().await, Delivered::HistoryComplete);
    }

    pub async fn is_told_of_loss(&mut self, why: &str) {
        let delivered = self.take().await;
        let Delivered::PossibleLoss { why: told } = &delivered else {
            panic!("{delivered:?} instead of {why}");
        };
        assert!(told.contains(why), "{told} instead of {why}");
    }

    /// Takes `count` batches; nothing else comes.
    pub async fn takes(&mut self, count: usize) -> Vec<Arc<Batch>> {
        let mut taken = Vec::new();
        while taken.len() < count {
            match self.take().await {
                Delivered::Batches(batches) => taken.extend(batches),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(taken.len(), count);
        taken
    }

    /// Waits until it consumes; what comes then is still to come.
    pub async fn consumes(&mut self) {
        let mut status = self.deliveries.status();
        let consuming = status.wait_for(|status: &ConsumerStatus| status.consuming);
        let settled = async {
            tokio::select! {
                biased;
                waited = consuming => {
                    waited.expect("it goes on");
                }
                early = self.following() => return Some(early),
            }
            None
        };
        let waited = tokio::time::timeout(PATIENCE, settled).await;
        self.early = waited.expect("in time");
    }

    /// Ends it as a process would; its store stays.
    pub async fn stop(mut self) -> Arc<Mutex<StoreStatus>> {
        self.deliveries.stopper().stop();
        assert_eq!(self.next().await, Ok(None));
        self.standing
    }
}
