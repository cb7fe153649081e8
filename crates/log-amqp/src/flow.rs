//! Between a session and the counter's task: what is handed over, and that all of it may be given
//! back.
//!
//! Invariant: what was handed over before it was given back is not taken for what comes again.

use tokio::sync::{mpsc, watch};

use super::consumer::Handed;

/// Whether a session is to consume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flow {
    /// How often all that was not acknowledged was given back.
    pub(super) round: u64,
    /// Whether nothing is to be consumed until there is room.
    pub(super) is_paused: bool,
}

/// Where a session hands over, in one round of [`Flow`].
#[derive(Clone)]
pub(super) struct Handing {
    pub(super) round: u64,
    sender: mpsc::Sender<(u64, Handed)>,
}

/// Nobody takes what is handed over any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unwanted;

impl Handing {
    /// In the first round.
    pub(super) fn new(sender: mpsc::Sender<(u64, Handed)>) -> Self {
        Self { round: 0, sender }
    }

    pub(super) async fn send(&self, handed: Handed) -> Result<(), Unwanted> {
        let sent = self.sender.send((self.round, handed)).await;
        sent.map_err(|_| Unwanted)
    }

    /// Resolves once nobody takes anything any more.
    pub(super) async fn closed(&self) {
        self.sender.closed().await;
    }
}

/// Waits until there is something to consume for; says in which round.
pub(super) async fn flowing(flow: &mut watch::Receiver<Flow>) -> u64 {
    let round = flow.wait_for(|flow| !flow.is_paused).await;
    match round.map(|flow| flow.round).ok() {
        Some(round) => round,
        None => std::future::pending().await,
    }
}

/// Waits until what was handed over in `round` is given back.
pub(super) async fn given_back(flow: &mut watch::Receiver<Flow>, round: u64) {
    if flow.wait_for(|flow| flow.round != round).await.is_err() {
        std::future::pending::<()>().await;
    }
}
