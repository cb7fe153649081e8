//! A coordinator over scripted counters and a scripted log.
//!
//! Invariant: a scripted counter keeps the contract of `Queries`, except for what its mode breaks.

mod accepting;
mod holes;
mod reads;
mod repair;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::*;
use headcount_log::{AppendError, Log};
use headcount_model::{
    BarrierEpochs, Batch, BatchId, CounterName, Entropy, Epoch, ItemHash, LossId, NewItems,
    Partition, Partitioning, Position, Requirement, Sequence, Signed, TenantItems, TenantName,
    Token,
};
use headcount_rpc::{
    Contains, Counts, Coverage, ListQuery, Listing, Queries, QueryError, ReadRequirement, Status,
};
use headcount_runtime::supervisor::Supervisor;

const OWN: Epoch = Epoch(9);
const STRONG_READS_MAX: usize = 4;

/// How a scripted counter answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Answers,
    /// It rejects queries that must wait: its limit of waiting queries is reached.
    Busy,
    Silent,
    Gone,
}

struct Inside {
    position: Position,
    /// The barriers that came in this incarnation.
    barriers: BTreeMap<(Partition, Epoch), Sequence>,
    /// The epochs that changed in this incarnation.
    live: BTreeSet<(Partition, Epoch)>,
    life: u64,
    counts: BTreeMap<String, u64>,
    complete: bool,
    /// How often it lost something in this incarnation.
    losses: u64,
    mode: Mode,
    /// Why it has stopped consuming its queue.
    problem: Option<String>,
    /// How often it was queried for the count of a tenant.
    asked: u64,
}

/// A counter that applies a batch when the test says so.
#[derive(Clone)]
struct Scripted(Arc<Mutex<Inside>>, String);

impl Scripted {
    fn new(name: &str) -> Self {
        let inside = Inside {
            position: Position::default(),
            barriers: BTreeMap::new(),
            live: BTreeSet::new(),
            life: 1,
            counts: BTreeMap::new(),
            complete: true,
            losses: 0,
            mode: Mode::Answers,
            problem: None,
            asked: 0,
        };
        Self(Arc::new(Mutex::new(inside)), name.to_owned())
    }

    fn apply(&self, batch: &Batch) {
        let mut inside = self.0.lock();
        let id = batch.id();
        if batch.is_barrier() {
            inside
                .barriers
                .insert((id.partition, id.epoch), id.sequence);
            return;
        }
        let lost = batch
            .acceptance()
            .map_or(&[][..], |signed| &signed.losses[..]);
        for &(epoch, first, last) in lost {
            for sequence in first..=last {
                let lost = BatchId {
                    epoch,
                    sequence,
                    ..id
                };
                inside.position.record(lost, 0);
            }
            inside.live.insert((id.partition, epoch));
        }
        let own = LossId::new(inside.life, inside.losses);
        let signed = batch.acceptance().map(|of| of.completes.of(&self.1, own));
        inside.complete |= signed == Some(Signed::Complete);
        inside.position.record(id, batch.checksum());
        inside.live.insert((id.partition, id.epoch));
        for items in batch.tenants() {
            *inside.counts.entry(items.tenant.to_string()).or_default() +=
                items.hashes.len() as u64;
        }
    }

    /// Restarts it with what it has.
    fn restart(&self) {
        let mut inside = self.0.lock();
        inside.life += 1;
        inside.losses = 0;
        inside.barriers.clear();
        inside.live.clear();
    }

    /// Records that its queue may have lost something.
    fn lose(&self) {
        let mut inside = self.0.lock();
        inside.complete = false;
        inside.losses += 1;
    }

    /// Restarts it with an empty disk.
    fn lose_disk(&self) {
        self.restart();
        let mut inside = self.0.lock();
        inside.position = Position::default();
        inside.counts.clear();
        inside.complete = false;
    }

    fn set(&self, mode: Mode) {
        self.0.lock().mode = mode;
    }
}

impl Queries for Scripted {
    fn name(&self) -> &str {
        &self.1
    }

    fn counts(
        &self,
        tenants: Arc<[TenantName]>,
        demand: ReadRequirement,
    ) -> BoxFuture<'_, Result<Counts, QueryError>> {
        async move {
            let deadline = Instant::now() + demand.wait;
            self.0.lock().asked += u64::from(!tenants.is_empty());
            loop {
                {
                    let inside = self.0.lock();
                    if inside.mode == Mode::Gone {
                        return Err(QueryError::Unreachable("gone".into()));
                    }
                    let covers = inside.complete
                        && inside.position.covers(&demand.requirement, Partition(0));
                    let barriers = demand.barriers.iter().all(|id| {
                        let last = inside.barriers.get(&(id.partition, id.epoch));
                        last.is_some_and(|&last| last >= id.sequence)
                    });
                    let full = covers && barriers;
                    let must_wait = !full && Instant::now() < deadline;
                    if inside.mode == Mode::Busy && must_wait {
                        return Err(QueryError::Busy);
                    }
                    let answers = matches!(inside.mode, Mode::Answers | Mode::Busy);
                    if answers && !must_wait {
                        let mut covered = Requirement::default();
                        for (partition, epoch, part) in inside.position.iter() {
                            if demand.whole_position || inside.live.contains(&(partition, epoch)) {
                                covered.add_all(partition, epoch, &part.sequences);
                            }
                        }
                        let count = |tenant: &TenantName| {
                            vec![inside.counts.get(tenant.as_str()).copied().unwrap_or(0)]
                        };
                        return Ok(Counts {
                            cover: Coverage {
                                life: inside.life,
                                barriers,
                                partitions: vec![(Partition(0), covers)],
                                covered,
                                loss: (!inside.complete)
                                    .then(|| LossId::new(inside.life, inside.losses)),
                            },
                            counts: tenants.iter().map(count).collect(),
                        });
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        .boxed()
    }

    fn contains(
        &self,
        _: TenantName,
        _: ItemHash,
        _: ReadRequirement,
    ) -> BoxFuture<'_, Result<Contains, QueryError>> {
        std::future::ready(Err(QueryError::Unreachable("not scripted".into()))).boxed()
    }

    fn list(
        &self,
        _: Arc<ListQuery>,
        _: ReadRequirement,
    ) -> BoxFuture<'_, Result<Listing, QueryError>> {
        std::future::ready(Err(QueryError::Unreachable("not scripted".into()))).boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<Status, QueryError>> {
        let problem = self.0.lock().problem.clone();
        std::future::ready(Ok(Status {
            problem,
            ..Status::default()
        }))
        .boxed()
    }
}

/// A log that is durable at once and delivers to the counters that the test chooses.
#[derive(Clone, Default)]
struct Fanout(Arc<Mutex<Reach>>);

#[derive(Default)]
struct Reach {
    counters: Vec<Scripted>,
    refuses: bool,
    /// Whether batches other than barriers stay in flight.
    stalls: bool,
}

impl Log for Fanout {
    async fn append(&self, batch: Arc<Batch>) -> Result<Option<NewItems>, AppendError> {
        if self.0.lock().stalls && !batch.is_barrier() {
            std::future::pending::<()>().await;
        }
        let reach = self.0.lock();
        if reach.refuses {
            return Err(AppendError::Refused("too large".into()));
        }
        for counter in &reach.counters {
            counter.apply(&batch);
        }
        Ok(None)
    }
}

struct World {
    began: Instant,
    counters: Vec<Scripted>,
    log: Fanout,
    coordinator: Coordinator,
}

impl World {
    /// Creates the counters `c0`, `c1`, … and a coordinator that is configured with their names.
    fn new(counters: usize) -> Self {
        let names: Vec<_> = (0..counters).map(|at| format!("c{at}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        Self::named(&names, counters)
    }

    /// Creates a coordinator that is configured with `names`. The counters of the first `present`
    /// names exist.
    fn named(names: &[&str], present: usize) -> Self {
        let counters: Vec<_> = names[..present]
            .iter()
            .map(|name| Scripted::new(name))
            .collect();
        let log = Fanout::default();
        log.0.lock().counters.clone_from(&counters);
        let coordinator = Self::coordinate(names, &counters, &log, Entropy::default);
        Self {
            began: Instant::now(),
            counters,
            log,
            coordinator,
        }
    }

    /// Creates a coordinator in the same initial state as all others of a test, except for its
    /// entropy.
    fn coordinate(
        names: &[&str],
        counters: &[Scripted],
        log: &Fanout,
        entropy: impl Fn() -> Entropy + Send + Sync + 'static,
    ) -> Coordinator {
        let options = CoordinatorOptions {
            batch_bytes_max: 1 << 20,
            admission: AdmissionLimits {
                waiting_bytes_max: 1 << 20,
                waiting_posts_max: 100,
            },
            accept_timeout: Duration::from_secs(10),
            strong_reads_max: STRONG_READS_MAX,
        };
        let coordinator = Coordinator::new(
            OWN,
            BarrierEpochs::new(Epoch(10), entropy),
            Partitioning::SINGLE,
            log,
            names.iter().map(|&name| name.to_owned()).collect(),
            options,
            &Supervisor::default(),
        );
        for (name, counter) in names.iter().zip(counters) {
            coordinator.set_member(name, Arc::new(counter.clone()), false);
        }
        coordinator
    }

    /// Adds a counter, as discovery does. The log delivers to it.
    fn add(&self, name: &str) -> Scripted {
        let counter = Scripted::new(name);
        self.log.0.lock().counters.push(counter.clone());
        let member = Arc::new(counter.clone());
        self.coordinator.set_member(name, member, false);
        counter
    }

    async fn start(&self) {
        let started = self.coordinator.start(Duration::from_secs(5)).await;
        started.expect("a majority answers");
    }

    /// Sets the counters that the log delivers to from now on.
    fn reach(&self, counters: &[usize]) {
        let reached = counters.iter().map(|&at| self.counters[at].clone());
        self.log.0.lock().counters = reached.collect();
    }

    async fn post(&self, id: u32) {
        let accepted = self.coordinator.accept(items(id)).await;
        accepted.expect("accepted");
    }

    async fn count(&self, consistency: Consistency) -> Result<(u64, bool), ReadError> {
        let options = ReadOptions {
            consistency,
            after: None,
            timeout: Duration::from_millis(100),
        };
        let read = self.coordinator.counts(vec![tenant()], &options).await?;
        Ok((read.value[0], read.exact))
    }
}

impl World {
    /// How often each counter was queried for a count since the last call.
    fn asked(&self) -> Vec<u64> {
        let take = |counter: &Scripted| std::mem::take(&mut counter.0.lock().asked);
        self.counters.iter().map(take).collect()
    }
}

fn tenant() -> TenantName {
    TenantName::new("t").expect("valid")
}

fn items(id: u32) -> Vec<TenantItems> {
    vec![TenantItems {
        tenant: tenant(),
        hashes: [ItemHash::of_id(&id.to_string())].into(),
    }]
}

/// A batch of another coordinator.
fn foreign(sequence: Sequence) -> Batch {
    batch(Epoch(1), sequence)
}

/// A batch of the coordinator itself.
fn own(sequence: Sequence) -> Batch {
    batch(OWN, sequence)
}

fn batch(epoch: Epoch, sequence: Sequence) -> Batch {
    let id = BatchId {
        partition: Partition(0),
        epoch,
        sequence,
    };
    Batch::new(id, 0, items(1_000 + sequence as u32))
}
