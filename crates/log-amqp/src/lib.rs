//! The log of a cluster over RabbitMQ: a fanout exchange for each partition, and durable queues for
//! each counter.
//!
//! Invariant: an append is confirmed by the queue of each counter that it is for, and a lost queue
//! is declared again only after the loss is recorded. Pure functions make the decisions; lapin only
//! carries them out.
//!
//! | file | content |
//! |---|---|
//! | `url` | the broker's addresses; passwords are never shown |
//! | `broker_error` | errors of broker operations, and what the broker's replies mean |
//! | `connection` | supervised connecting over a list of hosts |
//! | `topology` | names of exchanges, queues and markers, and the operations on them |
//! | `bootstrap` | what a coordinator declares at bootstrap, and what a counter creates |
//! | `elsewhere` | which addresses lead to a broker node that carries the cluster |
//! | `publisher`, `queue_monitor`, `partition_publisher`, `outcome` | [`AmqpLog`] |
//! | `startup` | what a counter does before it consumes, as a pure decision |
//! | `generation` | whether broker and store belong together, as a pure decision |
//! | `generation_queue`, `renewal` | reading and replacing generations on the broker |
//! | `consumer`, `session`, `listening`, `delivery_streams`, `flow` | [`AmqpDeliveries`] |
//! | `trouble`, `refusals` | reports of repeated failures, in the log and in readiness checks |
//! | `announcement`, `discovery` | announcements, and discovery by them |
//! | `strangers` | nodes that conflict with this one |
//! | `operator`, `remake` | operations that only an operator starts |
//! | `management` | a client of RabbitMQ's management API |

mod announcement;
mod bootstrap;
mod broker_error;
mod connection;
mod consumer;
mod delivery_streams;
mod discovery;
mod elsewhere;
mod flow;
#[cfg(fuzzing)]
pub mod fuzzing;
mod generation;
mod generation_queue;
mod listening;
pub mod management;
mod operator;
mod outcome;
mod partition_publisher;
mod publisher;
mod queue_monitor;
mod refusals;
mod remake;
mod renewal;
mod session;
mod startup;
mod strangers;
mod topology;
mod trouble;
mod url;

pub use announcement::{Announcement, Nodes, Role, Sighting, not_reached};
pub use consumer::{AmqpDeliveries, ConsumerStatus, Stopper};
pub use discovery::Presence;
pub use operator::{OperatorError, Poison, SkipOutcome, depths, remove_counter, skip_poison};
pub use publisher::{AmqpLog, AmqpRole, LogStatus};
pub use refusals::Refusals;
pub use remake::{QueueFault, RemakeOutcome, remake_queue};
pub use strangers::Strangers;
pub use url::{AmqpUrl, AmqpUrlError};

use std::time::Duration;

use headcount_model::{CounterName, Partitioning};
use headcount_runtime::supervisor::Supervisor;

/// The type of a counter's queues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum QueueType {
    /// Replicated. It confirms a message once a majority of its members has synced it.
    #[default]
    Quorum,
    /// On one node of the broker, and only for a broker with a single node: nothing is acknowledged
    /// while that node is down.
    Classic,
}

/// How to reach the broker, and how its objects are named. All nodes of a cluster need the same
/// `prefix`, `partitioning` and `queue_type`.
#[derive(Debug, Clone)]
pub struct AmqpOptions {
    /// The broker's addresses, tried in turn.
    pub urls: Vec<AmqpUrl>,
    /// Certificates in PEM that are trusted for `amqps://` in addition to the system's.
    pub authorities: Option<String>,
    /// Prefix of the names of all exchanges and queues.
    pub prefix: String,
    /// The id of the cluster. Announcements of other clusters are ignored; with none, those of all
    /// clusters are accepted.
    pub cluster_id: Option<String>,
    /// The number of partitions.
    pub partitioning: Partitioning,
    /// The type of the counters' queues.
    pub queue_type: QueueType,
    /// The limit on connecting to one host.
    pub connect_timeout: Duration,
    /// How long to wait for a confirm before the same batch is published again on a new channel.
    pub confirm_timeout: Duration,
    /// The interval of heartbeats on a connection, in whole seconds.
    pub heartbeat: Duration,
    /// The most unacknowledged deliveries of a partition that a counter holds.
    pub prefetch: u16,
    /// How often a coordinator reads the lengths of the queues.
    pub depth_interval: Duration,
    /// Counters that this node knows before it has received an announcement. With several
    /// addresses, their generation queues show which nodes of the broker carry the cluster.
    pub witnesses: Vec<CounterName>,
    /// The interval at which a node announces itself.
    pub presence_interval: Duration,
    /// Records what the broker refuses.
    pub refusals: Refusals,
    /// Supervises the tasks of this log.
    pub supervisor: Supervisor,
}

impl AmqpOptions {
    /// The virtual host of the first address.
    #[must_use]
    pub fn vhost(&self) -> &str {
        self.urls.first().map_or("/", AmqpUrl::vhost)
    }

    /// The names of all queues of a counter: one for each partition, then its generation queue.
    #[must_use]
    pub fn queues(&self, counter: &CounterName) -> Vec<String> {
        let names = topology::Names::new(self);
        let all = self.partitioning.all();
        let items = all.map(|partition| names.queue(partition, counter));
        items.chain([names.generation(counter)]).collect()
    }

    /// The default settings for a broker at `urls`.
    #[must_use]
    pub fn new(urls: Vec<AmqpUrl>) -> Self {
        Self {
            urls,
            authorities: None,
            prefix: "headcount".to_owned(),
            cluster_id: None,
            partitioning: Partitioning::SINGLE,
            queue_type: QueueType::Quorum,
            connect_timeout: Duration::from_secs(10),
            confirm_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(10),
            prefetch: 64,
            depth_interval: Duration::from_secs(1),
            witnesses: Vec::new(),
            presence_interval: Duration::from_secs(1),
            refusals: Refusals::default(),
            supervisor: Supervisor::default(),
        }
    }
}
