//! The channel between a session and the counter's task: what the session passes, and how all of it
//! is given back.
//!
//! Invariant: a delivery from before a give-back is never mistaken for its redelivery.

use tokio::sync::{mpsc, watch};

use super::consumer::Handed;

/// Whether a session may consume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flow {
    /// How often all unacknowledged deliveries were given back.
    pub(super) round: u64,
    /// Whether consuming is paused until the store has room.
    pub(super) is_paused: bool,
}

/// The sending end of a session, for one round of [`Flow`].
#[derive(Clone)]
pub(super) struct Handing {
    pub(super) round: u64,
    sender: mpsc::Sender<(u64, Handed)>,
}

/// The receiver is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unwanted;

impl Handing {
    /// Starts with the first round.
    pub(super) fn new(sender: mpsc::Sender<(u64, Handed)>) -> Self {
        Self { round: 0, sender }
    }

    pub(super) async fn send(&self, handed: Handed) -> Result<(), Unwanted> {
        let sent = self.sender.send((self.round, handed)).await;
        sent.map_err(|_| Unwanted)
    }

    /// Waits until the receiver is closed.
    pub(super) async fn closed(&self) {
        self.sender.closed().await;
    }
}

/// Waits until consuming is not paused; returns the round.
pub(super) async fn flowing(flow: &mut watch::Receiver<Flow>) -> u64 {
    let round = flow.wait_for(|flow| !flow.is_paused).await;
    match round.map(|flow| flow.round).ok() {
        Some(round) => round,
        None => std::future::pending().await,
    }
}

/// Waits until the deliveries of `round` are given back.
pub(super) async fn given_back(flow: &mut watch::Receiver<Flow>, round: u64) {
    if flow.wait_for(|flow| flow.round != round).await.is_err() {
        std::future::pending::<()>().await;
    }
}
