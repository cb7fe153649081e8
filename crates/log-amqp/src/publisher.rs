//! The appending end: it publishes batches to the queues of the counters.
//!
//! Invariant: an accepted batch is published until every queue that it is for has confirmed it,
//! even if nobody waits for it any more. Each partition has one batch in flight, so that a returned
//! message belongs to that batch.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use futures_util::FutureExt;
use lapin::Connection;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::broker_error::BrokerError;
use super::connection::{Dialer, Link, LinkEvent};
use super::elsewhere::{self, Knows, Silent};
use super::partition_publisher::{self, PartitionPublisher};
use super::queue_monitor::{self, Control};
use super::topology::Broker;
use super::trouble::{Saying, Trouble};
use super::{AmqpOptions, Nodes};
use headcount_log::{AppendError, Log};
use headcount_model::{Batch, CounterName, NewItems, Partition};
use headcount_runtime::supervisor::{Ended, Task};
use headcount_telemetry as telemetry;

/// Appends that may wait for a partition; each epoch has one in flight.
const APPENDS_WAITING_MAX: usize = 64;
/// Requests for a new declaration that may wait; one declaration serves all of them.
const DECLARATIONS_WAITING_MAX: usize = 16;

/// The role of the node that appends.
#[derive(Clone)]
pub enum AmqpRole {
    /// Declares what its counters need before it publishes.
    Coordinator {
        /// The counters that its settings name; it declares at least their queues.
        counters: Vec<CounterName>,
        /// The nodes that were heard. Counters among them are declared again and watched too.
        nodes: watch::Receiver<Arc<Nodes>>,
    },
    /// Publishes its own barriers, after a coordinator has declared everything: to its queue, and
    /// to those of the counters that announced themselves. A barrier proves nothing about a queue
    /// that does not exist.
    Counter {
        /// The counter's own name.
        name: CounterName,
        /// The nodes that were heard.
        nodes: watch::Receiver<Arc<Nodes>>,
    },
}

/// The state of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogStatus {
    /// Whether it is connected and everything is declared.
    pub connected: bool,
    /// Whether the broker accepts no messages: a memory or disk alarm.
    pub blocked: bool,
    /// Why nothing can ever be appended with these settings.
    pub fatal: Option<String>,
    /// The number of ready messages in each counter's queues.
    pub depths: Vec<(CounterName, u64)>,
    /// Counters without a queue.
    pub missing: Vec<CounterName>,
    /// The counters to whose queues every batch is published from now on. All batches that were
    /// appended without one of them are confirmed.
    pub reached: BTreeSet<CounterName>,
}

pub(super) struct Append {
    pub batch: Arc<Batch>,
    pub done: oneshot::Sender<Result<(), AppendError>>,
}

/// State that the lanes share.
pub(super) struct Publishing {
    pub options: Arc<AmqpOptions>,
    pub is_coordinator: bool,
    /// The open connection, if there is one.
    pub connection: watch::Receiver<Option<Arc<Connection>>>,
    pub status: watch::Sender<LogStatus>,
    /// Whether everything was declared since the start.
    pub declared: watch::Sender<bool>,
    /// The counters to whose queues batches are published.
    pub targets: watch::Sender<BTreeSet<CounterName>>,
    /// The counters that each lane publishes to.
    reached: Mutex<BTreeMap<Partition, BTreeSet<CounterName>>>,
    /// Requests another connection.
    pub reconnect: Notify,
    /// Requests a new declaration.
    pub declare_again: mpsc::Sender<oneshot::Sender<()>>,
}

/// The appending end of a cluster's log; cheap to clone. Its tasks end when the last clone is
/// dropped and all accepted batches are confirmed.
#[derive(Clone)]
pub struct AmqpLog {
    lanes: Arc<BTreeMap<Partition, mpsc::Sender<Append>>>,
    status: watch::Receiver<LogStatus>,
}

impl AmqpLog {
    /// Starts to connect and declare; appends wait for both. Must be called on a Tokio runtime,
    /// which runs its tasks.
    #[must_use]
    pub fn start(options: AmqpOptions, role: AmqpRole) -> Self {
        let options = Arc::new(options);
        let (connected, connection) = watch::channel(None);
        let (status, watching) = watch::channel(LogStatus::default());
        let (declare_again, declarations) = mpsc::channel(DECLARATIONS_WAITING_MAX);
        let publishing = Arc::new(Publishing {
            options: Arc::clone(&options),
            is_coordinator: matches!(role, AmqpRole::Coordinator { .. }),
            connection,
            status,
            declared: watch::channel(false).0,
            targets: watch::channel(first_targets(&role)).0,
            reached: Mutex::default(),
            reconnect: Notify::new(),
            declare_again,
        });
        let supervisor = &options.supervisor;
        let link = keep_connected(Arc::clone(&publishing), connected);
        let link = supervisor.spawn(Task::PublisherLink, link);
        let control = Control::new(Arc::clone(&publishing), role, declarations);
        let control = supervisor.spawn(Task::PublisherControl, async {
            queue_monitor::run(control).await;
            // The lanes have been given the reason why nothing can be appended.
            Ended::Done
        });
        let beside = Arc::new(AbortOnDrop([link, control]));
        let mut lanes = BTreeMap::new();
        for partition in options.partitioning.all() {
            let (appends, receiver) = mpsc::channel(APPENDS_WAITING_MAX);
            lanes.insert(partition, appends);
            let lane = partition_publisher::run(
                PartitionPublisher::new(Arc::clone(&publishing), partition),
                receiver,
            );
            let beside = Arc::clone(&beside);
            supervisor.spawn(Task::PublisherLane, async {
                lane.await;
                drop(beside);
                Ended::Done
            });
        }
        Self {
            lanes: Arc::new(lanes),
            status: watching,
        }
    }

    /// The state of the log, and its changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<LogStatus> {
        self.status.clone()
    }
}

impl Log for AmqpLog {
    async fn append(&self, batch: Arc<Batch>) -> Result<Option<NewItems>, AppendError> {
        let partition = batch.id().partition;
        let lane = self
            .lanes
            .get(&partition)
            .ok_or_else(|| AppendError::Refused(format!("partition {partition} does not exist")))?;
        let (done, confirmed) = oneshot::channel();
        lane.send(Append { batch, done })
            .await
            .map_err(|_| AppendError::OutcomeUnknown)?;
        confirmed.await.map_err(|_| AppendError::OutcomeUnknown)??;
        // The counters have not applied it yet, so the new items are unknown.
        Ok(None)
    }
}

/// Tasks that work for the lanes, and end with the last lane.
struct AbortOnDrop([JoinHandle<()>; 2]);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Keeps a connection for publishing open, and reports its state.
async fn keep_connected(
    publishing: Arc<Publishing>,
    connected: watch::Sender<Option<Arc<Connection>>>,
) -> Infallible {
    let mut dialer = Dialer::new(Arc::clone(&publishing.options), "publishing");
    let mut trouble = Trouble::default();
    loop {
        let mut link = dialer.dial().await;
        let mut broker = Broker::new(Arc::clone(&publishing.options), &link);
        let here = match may_publish(&mut broker).await {
            Ok(here) => here,
            Err(error) => {
                dialer.is_refused(&error);
                if trouble.note(Instant::now()) != Saying::Nothing {
                    tracing::warn!(%error, "publishing not possible here; trying the next address");
                }
                link.close().await;
                continue;
            }
        };
        trouble.over();
        dialer.is_granted();
        // Requests for another connection from before this one are satisfied by it.
        let _ = publishing.reconnect.notified().now_or_never();
        connected.send_replace(Some(Arc::clone(&link.connection)));
        tokio::select! {
            () = watch_link(&publishing, &mut link) => {}
            () = elsewhere::turns_up(broker, here) => {}
        }
        connected.send_replace(None);
        publishing.set_blocked(false);
        publishing.report_connected(false);
        // A connection that was in use may be replaced without a pause.
        dialer.worked();
        link.close().await;
    }
}

/// Checks, as far as the broker node knows, that what is published over a connection reaches the
/// counters. With one address there is no alternative, so nothing is checked.
async fn may_publish(broker: &mut Broker) -> Result<Knows, BrokerError> {
    if broker.options.urls.len() < 2 {
        return Ok(Knows::Cluster);
    }
    let here = elsewhere::check(broker, Silent::MayKnow).await?;
    if here == Knows::Nothing {
        elsewhere::wait_or_move_on(&broker.options).await?;
    }
    Ok(here)
}

/// Reports the state of a connection until it is lost or not usable.
async fn watch_link(publishing: &Publishing, link: &mut Link) {
    let mut declared = publishing.declared.subscribe();
    publishing.report_connected(*declared.borrow_and_update());
    loop {
        tokio::select! {
            event = link.event() => match event {
                LinkEvent::Blocked(why) => {
                    tracing::error!(why, "broker blocks publishing");
                    publishing.set_blocked(true);
                }
                LinkEvent::Unblocked => {
                    tracing::info!("broker accepts messages again");
                    publishing.set_blocked(false);
                }
                LinkEvent::Gone => {
                    tracing::warn!("connection for publishing lost; reconnecting");
                    return;
                }
            },
            () = publishing.reconnect.notified() => return,
            _ = declared.changed() => {
                publishing.report_connected(*declared.borrow_and_update());
            }
        }
    }
}

/// The counters that a node publishes to before it has checked the queues.
fn first_targets(role: &AmqpRole) -> BTreeSet<CounterName> {
    match role {
        AmqpRole::Coordinator { counters, .. } => counters.iter().cloned().collect(),
        AmqpRole::Counter { name, .. } => BTreeSet::from([name.clone()]),
    }
}

impl Publishing {
    /// Publishes to the queues of these counters from the next attempt on.
    pub(crate) fn set_targets(&self, counters: BTreeSet<CounterName>) {
        self.targets.send_if_modified(|targets| {
            let changed = *targets != counters;
            *targets = counters;
            changed
        });
    }

    /// Records which counters a lane publishes to, and reports those that all lanes publish to.
    pub(crate) fn note_reached(&self, partition: Partition, counters: &BTreeSet<CounterName>) {
        let mut reached = self.reached.lock();
        reached.insert(partition, counters.clone());
        let mut by_all = counters.clone();
        for partition in self.options.partitioning.all() {
            let of_lane = reached.get(&partition);
            by_all.retain(|counter| of_lane.is_some_and(|lane| lane.contains(counter)));
        }
        self.status.send_if_modified(|status| {
            let changed = status.reached != by_all;
            status.reached = by_all;
            changed
        });
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.status.borrow().blocked
    }

    fn set_blocked(&self, blocked: bool) {
        metrics::gauge!(telemetry::BROKER_BLOCKED).set(f64::from(u8::from(blocked)));
        self.status.send_if_modified(|status| {
            let changed = status.blocked != blocked;
            status.blocked = blocked;
            changed
        });
    }

    fn report_connected(&self, connected: bool) {
        self.status.send_if_modified(|status| {
            let changed = status.connected != connected;
            status.connected = connected;
            changed
        });
    }
}
