//! The appending end: batches to the queues of the counters.
//!
//! Invariant: a batch that was handed over is published until it is confirmed by every queue that
//! it is for, whoever still waits for it; one at a time per partition, so that a returned message
//! belongs to the batch in flight.

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
use super::control::{self, Control};
use super::elsewhere::{self, Knows, Silent};
use super::lane::{self, Lane};
use super::topology::Broker;
use super::trouble::{Saying, Trouble};
use super::{AmqpOptions, Nodes};
use headcount_log::{AppendError, Log};
use headcount_model::{Batch, CounterName, NewItems, Partition};
use headcount_runtime::supervisor::{Ended, Task};
use headcount_telemetry as telemetry;

/// Appends that may wait for a partition; each epoch has one in flight.
const APPENDS_WAITING_MAX: usize = 64;
/// Requests to declare again that may wait; more are all served by one.
const DECLARATIONS_WAITING_MAX: usize = 16;

/// Who appends.
#[derive(Clone)]
pub enum AmqpRole {
    /// Declares what its counters need before it publishes.
    Coordinator {
        /// The least that it declares.
        counters: Vec<CounterName>,
        /// Counters known by presence are declared again with those, and watched.
        nodes: watch::Receiver<Arc<Nodes>>,
    },
    /// Publishes barriers of its own, once a coordinator has declared everything: to its queue, and
    /// to those of the counters known by presence. What a queue that is not there misses proves
    /// nothing of that.
    Counter {
        /// The counter's own name.
        name: CounterName,
        /// Who is there.
        nodes: watch::Receiver<Arc<Nodes>>,
    },
}

/// What the log says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogStatus {
    /// Whether it is connected and everything is declared.
    pub connected: bool,
    /// Whether the broker takes nothing for now: a memory or disk alarm.
    pub blocked: bool,
    /// Why nothing can ever be appended with these settings.
    pub fatal: Option<String>,
    /// Messages in each counter's queues that its counter does not hold.
    pub depths: Vec<(CounterName, u64)>,
    /// Counters that have no queue.
    pub missing: Vec<CounterName>,
    /// The counters whose queues get every batch that is appended from now on; all that was
    /// appended without one of them is confirmed.
    pub reached: BTreeSet<CounterName>,
}

pub(super) struct Append {
    pub batch: Arc<Batch>,
    pub done: oneshot::Sender<Result<(), AppendError>>,
}

/// What lanes share.
pub(super) struct Publishing {
    pub options: Arc<AmqpOptions>,
    pub is_coordinator: bool,
    /// The connection that is open now, if one is.
    pub connection: watch::Receiver<Option<Arc<Connection>>>,
    pub status: watch::Sender<LogStatus>,
    /// Whether everything was declared since the start.
    pub declared: watch::Sender<bool>,
    /// The counters to whose queues batches go.
    pub targets: watch::Sender<BTreeSet<CounterName>>,
    /// The counters that each lane publishes to.
    reached: Mutex<BTreeMap<Partition, BTreeSet<CounterName>>>,
    /// Asks for another connection.
    pub reconnect: Notify,
    /// Asks to declare again.
    pub declare_again: mpsc::Sender<oneshot::Sender<()>>,
}

/// The appending end of a cluster's log; cheap to clone. Its tasks end when the last clone is gone
/// and what was handed over is confirmed.
#[derive(Clone)]
pub struct AmqpLog {
    lanes: Arc<BTreeMap<Partition, mpsc::Sender<Append>>>,
    status: watch::Receiver<LogStatus>,
}

impl AmqpLog {
    /// Starts to connect and declare; appends wait for both. Must be called on a Tokio runtime,
    /// which runs it.
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
            control::run(control).await;
            // The lanes have heard why nothing can be appended.
            Ended::Done
        });
        let beside = Arc::new(AbortOnDrop([link, control]));
        let mut lanes = BTreeMap::new();
        for partition in options.partitioning.all() {
            let (appends, receiver) = mpsc::channel(APPENDS_WAITING_MAX);
            lanes.insert(partition, appends);
            let lane = lane::run(Lane::new(Arc::clone(&publishing), partition), receiver);
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

    /// What the log says of itself, as it changes.
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
            .ok_or_else(|| AppendError::Refused(format!("there is no partition {partition}")))?;
        let (done, confirmed) = oneshot::channel();
        lane.send(Append { batch, done })
            .await
            .map_err(|_| AppendError::OutcomeUnknown)?;
        confirmed.await.map_err(|_| AppendError::OutcomeUnknown)??;
        // The counters have yet to count it.
        Ok(None)
    }
}

/// What works for the lanes, and ends with the last of them.
struct AbortOnDrop([JoinHandle<()>; 2]);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Keeps a connection for publishing, and reports on it.
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
                    tracing::warn!(%error, "nothing is published behind this address");
                }
                link.close().await;
                continue;
            }
        };
        trouble.over();
        dialer.is_granted();
        // What was asked for before this connection is granted by it.
        let _ = publishing.reconnect.notified().now_or_never();
        connected.send_replace(Some(Arc::clone(&link.connection)));
        tokio::select! {
            () = watch_link(&publishing, &mut link) => {}
            () = elsewhere::turns_up(broker, here) => {}
        }
        connected.send_replace(None);
        publishing.set_blocked(false);
        publishing.report_connected(false);
        // A connection that carried something may be followed by the next at once.
        dialer.worked();
        link.close().await;
    }
}

/// Checks that what is published over a connection comes to where the counters are, as far as its
/// node knows. Of one address there is no other choice.
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

/// Reports until the connection is lost or of no use.
async fn watch_link(publishing: &Publishing, link: &mut Link) {
    let mut declared = publishing.declared.subscribe();
    publishing.report_connected(*declared.borrow_and_update());
    loop {
        tokio::select! {
            event = link.event() => match event {
                LinkEvent::Blocked(why) => {
                    tracing::error!(why, "the broker takes no messages");
                    publishing.set_blocked(true);
                }
                LinkEvent::Unblocked => {
                    tracing::info!("the broker takes messages again");
                    publishing.set_blocked(false);
                }
                LinkEvent::Gone => {
                    tracing::warn!("the connection for publishing is lost");
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

/// Whom a node publishes to before it has looked.
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

    /// Notes whom a lane publishes to, and tells those that all lanes do.
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
