//! Carries out what [`catch_up`](super::catch_up) decides: asks peers, sends barriers, fetches
//! snapshots.
//!
//! Invariant: it never holds up consuming. It does one round at a time, and a round that fails
//! changes nothing but what a whole snapshot brought.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use thiserror::Error;
use tokio::time::Instant;

use super::catch_up::{Holding, Next, PeerView, next, notice};
use super::control::{ControlError, CounterControl};
use super::gathered::Gathered;
use super::snapshot::{SnapshotDecoder, SnapshotError};
use super::{Demand, LocalCounter, Peer, Queries, QueryError};
use headcount_log::Log;
use headcount_model::{BarrierEpochs, Batch, BatchId, Partitioning, Requirement, TenantName};
use headcount_runtime::clock;
use headcount_runtime::supervisor::Ended;
use headcount_store::StoreReader;
use headcount_telemetry as telemetry;

/// How long to wait after a snapshot found no room on the disk: it is sent anew from its beginning.
const FULL_PAUSE: Duration = Duration::from_secs(60);

/// Times of a [`Healer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealerOptions {
    /// How often a counter that is not complete looks for a complete one.
    pub incomplete_interval: Duration,
    /// How often a complete counter compares itself with the others.
    pub complete_interval: Duration,
    /// How long a peer may take to answer what it holds.
    pub ask_timeout: Duration,
    /// How long a barrier may take to come through a queue before another is sent.
    pub barrier_timeout: Duration,
    /// How long a snapshot's next bytes may take.
    pub snapshot_idle_timeout: Duration,
}

impl Default for HealerOptions {
    fn default() -> Self {
        Self {
            incomplete_interval: Duration::from_secs(1),
            complete_interval: Duration::from_secs(3),
            ask_timeout: Duration::from_secs(2),
            barrier_timeout: Duration::from_secs(30),
            snapshot_idle_timeout: Duration::from_secs(30),
        }
    }
}

/// The other counters that can be reached now.
pub type Peers = Arc<dyn Fn() -> Vec<Arc<dyn Peer>> + Send + Sync>;

/// Why batches that are appended from now on may not reach the own queue, by what was said since
/// this moment; none when all do.
pub type NotReached = Arc<dyn Fn(Instant) -> Option<String> + Send + Sync>;

/// What a healer sees of its cluster.
#[derive(Clone)]
pub struct Cluster {
    /// The other counters.
    pub peers: Peers,
    /// Whether the coordinators reach this one.
    pub not_reached: NotReached,
}

/// Keeps one counter whole.
pub struct Healer<R, L> {
    own: LocalCounter<R>,
    control: CounterControl,
    log: L,
    epochs: BarrierEpochs,
    partitioning: Partitioning,
    cluster: Cluster,
    options: HealerOptions,
    reported: Option<(bool, u64)>,
    waits_for: Option<String>,
    /// How often the log had told of a loss, and when that was noticed.
    lost: (u64, Instant),
}

/// Why a round ended early. The next one begins anew.
#[derive(Debug, Error)]
enum RoundError {
    #[error("no barrier came through the log in time")]
    NoBarrier,
    #[error("this counter can't be asked: {0}")]
    Own(QueryError),
    #[error("{peer} gave no snapshot: {detail}")]
    Peer { peer: String, detail: String },
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl<R: StoreReader, L: Log> Healer<R, L> {
    /// A healer of `own`; its barriers go into `log`, each under one of `epochs`.
    #[must_use]
    pub fn new(
        own: LocalCounter<R>,
        control: CounterControl,
        log: L,
        epochs: BarrierEpochs,
        partitioning: Partitioning,
        cluster: Cluster,
        options: HealerOptions,
    ) -> Self {
        Self {
            own,
            control,
            log,
            epochs,
            partitioning,
            cluster,
            options,
            reported: None,
            waits_for: None,
            lost: (0, Instant::now()),
        }
    }

    /// Compares and catches up, for ever; it ends with the counter's task.
    pub async fn run(mut self) -> Ended {
        loop {
            let complete = match self.round().await {
                Ok(complete) => complete,
                Err(RoundError::Control(ControlError::Ended)) => return Ended::Done,
                Err(RoundError::Control(error)) => {
                    tracing::error!(%error, "make room: catching up takes about as much as the peer's folder, beside what is there");
                    tokio::time::sleep(FULL_PAUSE).await;
                    false
                }
                Err(error) => {
                    tracing::warn!(%error, "catching up did not succeed; it is tried again");
                    false
                }
            };
            let pause = if complete {
                self.options.complete_interval
            } else {
                self.options.incomplete_interval
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One round; returns whether this counter is complete.
    async fn round(&mut self) -> Result<bool, RoundError> {
        if self.own.is_halted() {
            // No barrier comes through its queue any more: nothing could be proved.
            return Ok(false);
        }
        let own = self.own_holding().await?;
        let views = self.ask_peers(&[]).await;
        let Some(noticed) = notice(&own, &views) else {
            self.report(true, &Requirement::default());
            return Ok(true);
        };
        let reached = own.complete || !self.waits_to_be_reached();
        if !reached && noticed.is_empty() {
            return Ok(false);
        }
        // Before the barrier: a loss found after it asks for a round of its own.
        let losses = self.own.losses();
        let barriers = self.pass_barriers().await?;
        let mut tried = Vec::new();
        loop {
            let own = self.own_holding().await?;
            if own.complete && noticed.minus(&own.position).is_empty() {
                self.report(true, &Requirement::default());
                return Ok(true);
            }
            let views = self.ask_peers(&barriers).await;
            match next(&own, &noticed, &views, &tried, reached) {
                Next::Done {
                    unfillable,
                    complete,
                } => {
                    self.report(complete, &unfillable);
                    return Ok(complete && unfillable.is_empty());
                }
                Next::Fetch {
                    peer,
                    holding,
                    completes,
                } => {
                    tried.push(peer.clone());
                    let completes = completes.then_some(losses);
                    if let Err(error) = self.fetch(&peer, &holding, completes).await {
                        self.control.abandon().await?;
                        if matches!(error, RoundError::Control(_)) {
                            return Err(error);
                        }
                        tracing::warn!(%error, "a snapshot was not united");
                    }
                }
            }
        }
    }

    /// Whether somebody may append what does not come through the own queue. A counter that took
    /// itself for complete then would miss it. To be asked before the barrier: what was appended
    /// until now without this counter comes before that in the queues of the others.
    fn waits_to_be_reached(&mut self) -> bool {
        if self.lost.0 != self.own.losses() {
            self.lost = (self.own.losses(), Instant::now());
        }
        let why = (self.cluster.not_reached)(self.lost.1);
        if let Some(why) = why.as_ref().filter(|_| self.waits_for != why) {
            tracing::info!(why, "this counter does not catch up yet");
        }
        self.waits_for = why;
        self.waits_for.is_some()
    }

    async fn own_holding(&self) -> Result<Holding, RoundError> {
        let demand = Demand {
            whole_position: true,
            ..Demand::default()
        };
        let (holding, _) = holding(&self.own, demand).await.map_err(RoundError::Own)?;
        Ok(holding)
    }

    /// What each reachable peer holds, once `barriers` have come through its queue or the time is
    /// up.
    async fn ask_peers(&self, barriers: &[BatchId]) -> Vec<PeerView> {
        let wait = if barriers.is_empty() {
            Duration::ZERO
        } else {
            self.options.ask_timeout
        };
        let peers = (self.cluster.peers)();
        let asked = peers.iter().map(|peer| async move {
            let demand = Demand {
                barriers: barriers.to_vec(),
                wait,
                whole_position: true,
                ..Demand::default()
            };
            let answer = holding(peer.as_ref(), demand);
            let limit = wait + self.options.ask_timeout;
            let (holding, barrier) = tokio::time::timeout(limit, answer).await.ok()?.ok()?;
            Some(PeerView {
                name: peer.name().to_owned(),
                holding,
                barrier,
            })
        });
        let views = futures_util::future::join_all(asked).await;
        views.into_iter().flatten().collect()
    }

    /// Sends barriers until some of them have come back through our own queue.
    async fn pass_barriers(&self) -> Result<Vec<BatchId>, RoundError> {
        let epoch = self.epochs.draw();
        let barriers: Vec<BatchId> = self
            .partitioning
            .all()
            .map(|partition| BatchId {
                partition,
                epoch,
                sequence: 1,
            })
            .collect();
        for &id in &barriers {
            let batch = Arc::new(Batch::new(id, clock::now_ms(), Vec::new()));
            tokio::time::timeout(self.options.barrier_timeout, self.log.append(batch))
                .await
                .map_err(|_| RoundError::NoBarrier)?
                .map_err(|_| RoundError::NoBarrier)?;
        }
        let deadline = Instant::now() + self.options.barrier_timeout;
        if self.own.passed(&barriers, deadline).await {
            Ok(barriers)
        } else {
            // Purged, perhaps: the next round sends another.
            Err(RoundError::NoBarrier)
        }
    }

    /// Unites the snapshot of a peer that must hold at least `holding`, and is complete by it if no
    /// losses but these are told.
    async fn fetch(
        &self,
        name: &str,
        holding: &Requirement,
        completes: Option<u64>,
    ) -> Result<(), RoundError> {
        let fault = |detail: String| RoundError::Peer {
            peer: name.to_owned(),
            detail,
        };
        let mut peers = (self.cluster.peers)().into_iter();
        let peer = peers.find(|peer| peer.name() == name);
        let peer = peer.ok_or_else(|| fault("it is gone".into()))?;
        tracing::info!(peer = name, "fetching a snapshot");
        let started = Instant::now();
        let mut stream = peer
            .snapshot()
            .await
            .map_err(|error| fault(error.to_string()))?;
        self.control.begin().await?;
        let mut decoder = SnapshotDecoder::default();
        let mut gathered = Gathered::default();
        let broken = |error: SnapshotError| fault(error.to_string());
        loop {
            let idle = self.options.snapshot_idle_timeout;
            let bytes = tokio::time::timeout(idle, stream.next())
                .await
                .map_err(|_| fault("it fell silent".into()))?;
            let Some(bytes) = bytes else { break };
            let bytes = bytes.map_err(|error| fault(error.to_string()))?;
            decoder.push(&bytes).map_err(broken)?;
            while let Some(part) = decoder.next().map_err(broken)? {
                if let Some(keys) = gathered.take(part) {
                    self.control.keys(keys).await?;
                }
            }
        }
        decoder.finish().map_err(broken)?;
        self.control
            .keys(std::mem::take(&mut gathered.keys))
            .await?;
        let held = gathered.position.unwrap_or_default();
        // Else the peer has lost since what it said it held.
        if !holding.minus(&held.requirement()).is_empty() {
            return Err(fault("its snapshot lacks what it had".into()));
        }
        self.control.finish(held, completes).await?;
        telemetry::count(telemetry::SNAPSHOTS_UNITED, 1);
        let took_ms = started.elapsed().as_millis() as u64;
        tracing::info!(
            peer = name,
            items = gathered.items,
            took_ms,
            "united a snapshot"
        );
        Ok(())
    }

    /// Tells the operator, when it changes, what holds this counter up.
    fn report(&mut self, complete: bool, unfillable: &Requirement) {
        let state = (complete, unfillable.count());
        metrics::gauge!(telemetry::HOLES_UNFILLABLE).set(unfillable.count() as f64);
        if self.reported == Some(state) {
            return;
        }
        let first = self.reported.is_none();
        self.reported = Some(state);
        match state {
            (true, 0) if first => {}
            (true, 0) => tracing::info!("caught up: this counter is complete"),
            (true, missing) => tracing::warn!(
                missing,
                "nobody who can be asked has these batches; see headcount accept-loss --help"
            ),
            (false, _) => tracing::warn!(
                "not complete, and no complete counter answers: no count is exact until one comes back; if none ever will, see headcount accept-loss --help"
            ),
        }
    }
}

/// What a counter holds, and whether the demanded barriers have come through its queue.
async fn holding(counter: &dyn Queries, demand: Demand) -> Result<(Holding, bool), QueryError> {
    let nobody: Arc<[TenantName]> = Arc::new([]);
    let cover = counter.counts(nobody, demand).await?.cover;
    let holding = Holding {
        // Nothing was required, so what is not covered is not complete.
        complete: cover.partitions.iter().all(|&(_, covers)| covers),
        position: cover.covered,
    };
    Ok((holding, cover.barriers))
}

#[cfg(test)]
#[path = "healer_tests.rs"]
mod tests;
