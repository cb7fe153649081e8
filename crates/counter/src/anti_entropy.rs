//! Anti-entropy: carries out what [`catch_up`](super::catch_up) decides. It queries peers, sends
//! barriers and fetches snapshots.
//!
//! Invariant: it never blocks consumption. It runs one round at a time, and a round that fails
//! changes nothing except what a whole snapshot brought.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use thiserror::Error;
use tokio::time::Instant;

use super::catch_up::{Holding, Next, PeerView, next, notice};
use super::control::{ControlError, CounterControl};
use super::gathered::Gathered;
use super::snapshot::{SnapshotDecoder, SnapshotError};
use super::{LocalCounter, Peer, Queries, QueryError, ReadRequirement};
use headcount_log::Log;
use headcount_model::{BarrierEpochs, Batch, BatchId, Partitioning, Requirement, TenantName};
use headcount_runtime::clock;
use headcount_runtime::supervisor::Ended;
use headcount_store::StoreReader;
use headcount_telemetry as telemetry;

/// Pause after a snapshot found no room on the disk, since the next attempt transfers it from its
/// beginning.
const FULL_PAUSE: Duration = Duration::from_secs(60);

/// Intervals and timeouts of a [`AntiEntropy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AntiEntropyOptions {
    /// Interval at which a counter that is not complete looks for a complete one.
    pub incomplete_interval: Duration,
    /// Interval at which a complete counter compares itself with its peers.
    pub complete_interval: Duration,
    /// Timeout for a peer to report what it holds.
    pub ask_timeout: Duration,
    /// Timeout for a barrier to pass through a queue before another is sent.
    pub barrier_timeout: Duration,
    /// Timeout for the next bytes of a snapshot.
    pub snapshot_idle_timeout: Duration,
}

impl Default for AntiEntropyOptions {
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

/// The peers that are reachable now.
pub type Peers = Arc<dyn Fn() -> Vec<Arc<dyn Peer>> + Send + Sync>;

/// Why batches appended from now on may not reach this counter's queue, according to announcements
/// since the given moment; `None` if all reach it.
pub type NotReached = Arc<dyn Fn(Instant) -> Option<String> + Send + Sync>;

/// A healer's view of its cluster.
#[derive(Clone)]
pub struct Cluster {
    /// The peers.
    pub peers: Peers,
    /// Whether the coordinators publish to this counter's queue.
    pub not_reached: NotReached,
}

/// Detects and fetches the batches that one counter misses.
pub struct AntiEntropy<R, L> {
    own: LocalCounter<R>,
    control: CounterControl,
    log: L,
    epochs: BarrierEpochs,
    partitioning: Partitioning,
    cluster: Cluster,
    options: AntiEntropyOptions,
    reported: Option<(bool, u64)>,
    waits_for: Option<String>,
    /// How often the log had reported a possible loss, and when that number was noticed.
    lost: (u64, Instant),
}

/// Why a round ended early. The next round starts from the beginning.
#[derive(Debug, Error)]
enum RoundError {
    #[error("no barrier passed through the log in time")]
    NoBarrier,
    #[error("this counter can't be queried: {0}")]
    Own(QueryError),
    #[error("the snapshot of {peer} failed: {detail}")]
    Peer { peer: String, detail: String },
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl<R: StoreReader, L: Log> AntiEntropy<R, L> {
    /// A healer of `own`. It appends barriers to `log`, each under one of `epochs`.
    #[must_use]
    pub fn new(
        own: LocalCounter<R>,
        control: CounterControl,
        log: L,
        epochs: BarrierEpochs,
        partitioning: Partitioning,
        cluster: Cluster,
        options: AntiEntropyOptions,
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

    /// Runs rounds until the counter's task ends.
    pub async fn run(mut self) -> Ended {
        loop {
            let complete = match self.round().await {
                Ok(complete) => complete,
                Err(RoundError::Control(ControlError::Ended)) => return Ended::Done,
                Err(RoundError::Control(error)) => {
                    tracing::error!(
                        %error,
                        "catch-up failed: the disk is full; free about as much space as the peer's \
                         data directory takes, in addition to the space in use"
                    );
                    tokio::time::sleep(FULL_PAUSE).await;
                    false
                }
                Err(error) => {
                    tracing::warn!(%error, "catch-up round failed; retrying");
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

    /// Runs one round. Returns whether this counter is complete.
    async fn round(&mut self) -> Result<bool, RoundError> {
        if self.own.is_halted() {
            // No barrier passes through its queue any more: nothing could be proved.
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
        // Read this before the barrier: a loss that is reported later requires a round of its own.
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
                        tracing::warn!(%error, "snapshot ingest failed");
                    }
                }
            }
        }
    }

    /// Whether a coordinator may append batches that do not reach this counter's queue. A counter
    /// that became complete then would miss them. Call this before the barrier: batches that were
    /// appended so far without this counter precede the barrier in the queues of its peers.
    fn waits_to_be_reached(&mut self) -> bool {
        if self.lost.0 != self.own.losses() {
            self.lost = (self.own.losses(), Instant::now());
        }
        let why = (self.cluster.not_reached)(self.lost.1);
        if let Some(why) = why.as_ref().filter(|_| self.waits_for != why) {
            tracing::info!(
                why,
                "catch-up deferred: new batches may not reach this counter's queue"
            );
        }
        self.waits_for = why;
        self.waits_for.is_some()
    }

    async fn own_holding(&self) -> Result<Holding, RoundError> {
        let demand = ReadRequirement {
            whole_position: true,
            ..ReadRequirement::default()
        };
        let (holding, _) = holding(&self.own, demand).await.map_err(RoundError::Own)?;
        Ok(holding)
    }

    /// What each reachable peer holds, once `barriers` have passed through its queue or the wait is
    /// over.
    async fn ask_peers(&self, barriers: &[BatchId]) -> Vec<PeerView> {
        let wait = if barriers.is_empty() {
            Duration::ZERO
        } else {
            self.options.ask_timeout
        };
        let peers = (self.cluster.peers)();
        let asked = peers.iter().map(|peer| async move {
            let demand = ReadRequirement {
                barriers: barriers.to_vec(),
                wait,
                whole_position: true,
                ..ReadRequirement::default()
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

    /// Appends a barrier to each partition and waits until they have passed through this counter's
    /// queue.
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
            // The barriers may have been purged. The next round sends others.
            Err(RoundError::NoBarrier)
        }
    }

    /// Ingests the snapshot of the peer `name`, which must hold at least `holding`. The counter
    /// becomes complete if `completes` still equals the number of losses that its log has reported.
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
        let peer = peer.ok_or_else(|| fault("the peer is no longer reachable".into()))?;
        tracing::info!(peer = name, "fetching snapshot");
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
                .map_err(|_| fault("the stream stalled".into()))?;
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
        // Otherwise the peer has lost batches since it reported them.
        if !holding.minus(&held.requirement()).is_empty() {
            return Err(fault("it lacks batches that the peer had reported".into()));
        }
        self.control.finish(held, completes).await?;
        telemetry::count(telemetry::SNAPSHOTS_UNITED, 1);
        let took_ms = started.elapsed().as_millis() as u64;
        tracing::info!(
            peer = name,
            items = gathered.items,
            took_ms,
            "snapshot ingested"
        );
        Ok(())
    }

    /// Logs what keeps this counter from being complete, when that changes.
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
            (true, 0) => tracing::info!("catch-up finished: this counter is complete"),
            (true, missing) => tracing::warn!(
                missing,
                "no reachable counter has these batches; see headcount accept-loss --help"
            ),
            (false, _) => tracing::warn!(
                "this counter is not complete and no complete counter answers; no count is exact \
                 until one does (if none ever will, see headcount accept-loss --help)"
            ),
        }
    }
}

/// What a counter holds, and whether the demanded barriers have passed through its queue.
async fn holding(
    counter: &dyn Queries,
    demand: ReadRequirement,
) -> Result<(Holding, bool), QueryError> {
    let nobody: Arc<[TenantName]> = Arc::new([]);
    let cover = counter.counts(nobody, demand).await?.cover;
    let holding = Holding {
        // The requirement is empty, so a partition that is not covered is not complete.
        complete: cover.partitions.iter().all(|&(_, covers)| covers),
        position: cover.covered,
    };
    Ok((holding, cover.barriers))
}

#[cfg(test)]
#[path = "anti_entropy_tests.rs"]
mod tests;
