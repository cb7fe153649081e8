//! The log of a cluster: a durable queue on RabbitMQ for every counter, and a fanout exchange per
//! partition.
//!
//! Invariant: an append is confirmed by the queue of each counter that it is for, and nobody
//! declares a lost queue again without leaving word of the loss. What is decided is in pure
//! functions; lapin only carries it out.
//!
//! | file | what it is |
//! |---|---|
//! | `url` | the broker's addresses, with their passwords kept back |
//! | `broker_error` | what the broker refuses, by its replies |
//! | `connection` | supervised connecting over a list of hosts |
//! | `topology` | names of exchanges, queues and markers, and the operations on them |
//! | `founding` | what a coordinator declares before it publishes, what a counter creates |
//! | `publisher`, `control`, `lane`, `outcome` | [`AmqpLog`] |
//! | `protocol` | what a counter does before it consumes, as a pure decision |
//! | `generation`, `generation_queue`, `renewal` | what shows that broker and store go together; the first is pure |
//! | `consumer`, `session`, `listening`, `merged` | [`AmqpDeliveries`] |
//! | `trouble`, `refusals` | what to say of what fails again and again, in the log and to whoever asks |
//! | `announcement`, `presence`, `strangers` | what nodes say, who is there, and who must not be |
//! | `operator`, `remake` | what only an operator may ask for |

mod announcement;
mod broker_error;
mod connection;
mod consumer;
mod control;
mod elsewhere;
mod flow;
mod founding;
#[cfg(fuzzing)]
pub mod fuzzing;
mod generation;
mod generation_queue;
mod lane;
mod listening;
pub mod management;
mod merged;
mod operator;
mod outcome;
mod presence;
mod protocol;
mod publisher;
mod refusals;
mod remake;
mod renewal;
mod session;
mod strangers;
mod topology;
mod trouble;
mod url;

pub use announcement::{Announcement, Nodes, Role, Sighting, not_reached};
pub use consumer::{AmqpDeliveries, ConsumerStatus, Stopper};
pub use operator::{OperatorError, Poison, SkipOutcome, depths, remove_counter, skip_poison};
pub use presence::Presence;
pub use publisher::{AmqpLog, AmqpRole, LogStatus};
pub use refusals::Refusals;
pub use remake::{QueueFault, RemakeOutcome, remake_queue};
pub use strangers::Strangers;
pub use url::{AmqpUrl, AmqpUrlError};

use std::time::Duration;

use headcount_model::{CounterName, Partitioning};
use headcount_runtime::supervisor::Supervisor;

/// What kind of queue a counter's queue is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum QueueType {
    /// Replicated, and synced on a majority of the broker's nodes before it confirms.
    #[default]
    Quorum,
    /// On one node of the broker: only for a broker of a single node, since nothing is acknowledged
    /// while that is down.
    Classic,
}

/// How to reach the broker, and what is on it. All nodes of a cluster need the same `prefix`,
/// `partitioning` and `queue_type`.
#[derive(Debug, Clone)]
pub struct AmqpOptions {
    /// The broker's hosts, tried in turn.
    pub urls: Vec<AmqpUrl>,
    /// Certificates in PEM that are trusted at `amqps://` beside the system's.
    pub authorities: Option<String>,
    /// How the names of all exchanges and queues begin.
    pub prefix: String,
    /// The cluster whose nodes are heard; none hears those of all.
    pub cluster_id: Option<String>,
    /// How many partitions there are.
    pub partitioning: Partitioning,
    /// What kind of queue a counter's queue is.
    pub queue_type: QueueType,
    /// The longest that connecting to one host may take.
    pub connect_timeout: Duration,
    /// How long to wait for a confirm before the same batch is published again on a fresh channel.
    pub confirm_timeout: Duration,
    /// How often the two ends of a connection show that they are alive; in whole seconds.
    pub heartbeat: Duration,
    /// Deliveries of a partition that a counter holds unacknowledged at most.
    pub prefetch: u16,
    /// How often a coordinator asks how long the queues are.
    pub depth_interval: Duration,
    /// Counters whose generation queues tell the nodes of a broker with several addresses which
    /// carry the cluster from those that don't: those that this node can name before it has heard
    /// of any.
    pub witnesses: Vec<CounterName>,
    /// How often a node announces itself.
    pub presence_interval: Duration,
    /// Where it is noted what the broker refuses.
    pub refusals: Refusals,
    /// Watches over the tasks that carry this out.
    pub supervisor: Supervisor,
}

impl AmqpOptions {
    /// The virtual host of the first address.
    #[must_use]
    pub fn vhost(&self) -> &str {
        self.urls.first().map_or("/", AmqpUrl::vhost)
    }

    /// The names of all queues of a counter: one for each partition, then that of its generation.
    #[must_use]
    pub fn queues(&self, counter: &CounterName) -> Vec<String> {
        let names = topology::Names::new(self);
        let all = self.partitioning.all();
        let items = all.map(|partition| names.queue(partition, counter));
        items.chain([names.generation(counter)]).collect()
    }

    /// The usual settings for a broker at `urls`.
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
