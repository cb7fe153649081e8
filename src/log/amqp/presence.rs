//! Who is there: every node announces itself, and hears all others.
//!
//! Invariant: what was heard last is kept while the broker is away; nothing that is counted depends on it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Consumer};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::AmqpOptions;
use super::connection::{BrokerError, Dialer, timed};
use super::strangers::belongs;
use super::topology::Broker;
use crate::model::{CounterName, Epoch};
use crate::supervisor::Task;

/// How long a node that fell silent is remembered while the broker is there.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// How long a node that fell silent is taken to be alive: some missed announcements, and a pause of its process.
const LIVES_FOR: Duration = Duration::from_secs(10);
/// How long to listen before every node that is alive was heard.
const HEARD_ALL_AFTER: Duration = Duration::from_secs(3);
/// The most bytes of an announcement; a longer one is not read.
const ANNOUNCEMENT_BYTES_MAX: usize = 64 * 1024;
/// The most nodes remembered.
const NODES_MAX: usize = 4_096;

/// What a node is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It takes posts and answers reads.
    Coordinator,
    /// It counts.
    Counter,
    /// Something that a later release knows.
    #[default]
    #[serde(other)]
    Other,
}

/// What a node says of itself. Fields that a release does not know are passed over; those that it misses are
/// their defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Announcement {
    /// The release.
    pub version: String,
    /// What it is.
    pub role: Role,
    /// A counter's name, or a coordinator's.
    pub name: String,
    /// The cluster that it belongs to; empty in a release before this field.
    pub cluster: String,
    /// When its process started, in milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// Its present life: random, new at every start.
    pub life: u64,
    /// Where its internal endpoint is.
    pub url: String,
    /// Whether a counter is complete.
    pub complete: bool,
    /// Whether a counter has applied anything, or consumed from a broker, ever.
    pub holds_position: bool,
    /// Whether a counter's `started` marker is on this broker; absent until it has looked.
    pub started: Option<bool>,
    /// A digest of a counter's position.
    pub position_digest: u64,
    /// The counters that its settings name.
    pub named: Vec<String>,
    /// A counter's tenants.
    pub tenants: u64,
    /// A counter's items.
    pub items: u64,
    /// How old the last batch was when a counter applied it, in milliseconds.
    pub lag_ms: u64,
    /// The newest format of a batch that it reads.
    pub wire_version: u8,
    /// The counters whose queues get every batch that a coordinator appends from now on; all that it appended before
    /// without one of them is confirmed. A release before this field published to whatever was bound.
    pub reaches: Option<Vec<String>>,
    /// The epoch of a coordinator, as 32 hex digits; none where its release doesn't say.
    #[serde(skip_serializing_if = "Option::is_none", with = "epoch")]
    pub epoch: Option<Epoch>,
}

/// An epoch in JSON; a text that is none is passed over, as if nothing was said.
mod epoch {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::model::Epoch;

    const HEX_DIGITS: usize = 32;

    pub fn serialize<S: Serializer>(epoch: &Option<Epoch>, to: S) -> Result<S::Ok, S::Error> {
        epoch.map(|epoch| epoch.to_string()).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Epoch>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let text = text.filter(|text| {
            text.len() == HEX_DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit())
        });
        Ok(text.and_then(|text| u128::from_str_radix(&text, 16).ok().map(Epoch)))
    }
}

/// A node and when it was heard last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// What it said.
    pub announcement: Announcement,
    /// When, by the runtime's clock.
    pub seen_at: Instant,
}

/// Every node heard, by its unique name.
pub type Nodes = BTreeMap<String, Sighting>;

/// The counters among `nodes`.
pub(super) fn known_counters(nodes: &Nodes) -> Vec<CounterName> {
    let counters = nodes
        .values()
        .map(|sighting| &sighting.announcement)
        .filter(|announcement| announcement.role == Role::Counter);
    let mut names: Vec<_> = counters
        .filter_map(|announcement| CounterName::new(&announcement.name))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Why a batch that somebody appends from now on may not reach `counter`'s queue, as far as one knows who has heard these
/// `nodes`, and has been listening since `listening_since`: the counter may not take itself for complete meanwhile.
#[must_use]
pub fn not_reached(
    nodes: &Nodes,
    counter: &CounterName,
    listening_since: Option<Instant>,
    now: Instant,
) -> Option<String> {
    if listening_since.is_none_or(|since| now.duration_since(since) < HEARD_ALL_AFTER) {
        return Some("the coordinators are being listened for".to_owned());
    }
    let lives = |sighting: &&Sighting| now.duration_since(sighting.seen_at) < LIVES_FOR;
    let coordinators = nodes.values().filter(lives);
    let coordinators = coordinators.map(|sighting| &sighting.announcement);
    let mut passing_by = coordinators.filter(|node| {
        let reaches = |names: &Vec<String>| names.iter().any(|name| name == counter.as_str());
        node.role == Role::Coordinator && !node.reaches.as_ref().is_none_or(reaches)
    });
    let name = &passing_by.next()?.name;
    Some(format!("{name} does not publish to its queue yet"))
}

/// What travels: the announcement and who it is from.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Message {
    node: String,
    #[serde(flatten)]
    announcement: Announcement,
}

/// Announces and listens until it is dropped.
pub struct Presence {
    nodes: watch::Receiver<Arc<Nodes>>,
    everybody: watch::Receiver<Arc<Nodes>>,
    /// Since when, while it does.
    listening: watch::Receiver<Option<Instant>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Presence {
    /// Announces as `node`, a name that no other node has, what `announce` says at that moment. Must be called on
    /// a Tokio runtime, which runs it.
    #[must_use]
    pub fn start(
        options: AmqpOptions,
        node: String,
        announce: Arc<dyn Fn() -> Announcement + Send + Sync>,
    ) -> Self {
        let options = Arc::new(options);
        let mut presence = Self::listen_only(Arc::clone(&options));
        let supervisor = options.supervisor.clone();
        let announcing = announce_always(options, node, announce);
        let announcing = supervisor.spawn(Task::Announcer, announcing);
        presence.tasks.push(announcing);
        presence
    }

    /// Listens without announcing anything: for an operator's command.
    pub(super) fn listen_only(options: Arc<AmqpOptions>) -> Self {
        let (own, nodes) = watch::channel(Arc::<Nodes>::default());
        let (all, everybody) = watch::channel(Arc::<Nodes>::default());
        let (ready, listening) = watch::channel(None);
        let supervisor = options.supervisor.clone();
        let heard = Heard {
            cluster_id: options.cluster_id.clone(),
            own,
            all,
        };
        let tasks = vec![supervisor.spawn(Task::Listener, listen(options, heard, ready))];
        Self {
            nodes,
            everybody,
            listening,
            tasks,
        }
    }

    /// Waits until it listens.
    pub(super) async fn listening(&self) {
        let mut listening = self.listening.clone();
        // The task listens until this is dropped.
        let _ = listening.wait_for(Option::is_some).await;
    }

    /// Since when it has been listening without a break; none while it does not.
    #[must_use]
    pub fn listening_since(&self) -> watch::Receiver<Option<Instant>> {
        self.listening.clone()
    }

    /// Every node of this cluster heard so far, this one included.
    #[must_use]
    pub fn nodes(&self) -> watch::Receiver<Arc<Nodes>> {
        self.nodes.clone()
    }

    /// Every node heard so far, of whatever cluster: for [`Strangers`](super::Strangers) only.
    #[must_use]
    pub fn everybody(&self) -> watch::Receiver<Arc<Nodes>> {
        self.everybody.clone()
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn announce_always(
    options: Arc<AmqpOptions>,
    node: String,
    announce: Arc<dyn Fn() -> Announcement + Send + Sync>,
) -> Infallible {
    let mut dialer = Dialer::new(Arc::clone(&options), "announcing");
    loop {
        let link = dialer.dial().await;
        let mut broker = Broker::new(Arc::clone(&options), Arc::clone(&link.connection));
        if let Err(error) = announce_until_lost(&mut broker, &mut dialer, &node, &*announce).await {
            tracing::warn!(%error, "this node can't announce itself; once more");
        }
        link.close().await;
    }
}

async fn announce_until_lost(
    broker: &mut Broker,
    dialer: &mut Dialer,
    node: &str,
    announce: &(dyn Fn() -> Announcement + Send + Sync),
) -> Result<(), BrokerError> {
    broker.declare_presence().await?;
    let channel = broker.fresh_channel().await?;
    let mut ticks = tokio::time::interval(broker.options.presence_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let message = Message {
            node: node.to_owned(),
            announcement: announce(),
        };
        let Ok(bytes) = serde_json::to_vec(&message) else {
            continue;
        };
        let published = channel.basic_publish(
            broker.names.presence().into(),
            ShortString::default(),
            BasicPublishOptions::default(),
            &bytes,
            BasicProperties::default(),
        );
        // A blocked broker reads nothing: that is no reason to connect again.
        if let Ok(published) = tokio::time::timeout(broker.options.confirm_timeout, published).await
        {
            published?;
            dialer.worked();
        }
    }
}

async fn listen(
    options: Arc<AmqpOptions>,
    heard: Heard,
    ready: watch::Sender<Option<Instant>>,
) -> Infallible {
    let mut dialer = Dialer::new(Arc::clone(&options), "listening");
    loop {
        let link = dialer.dial().await;
        let mut broker = Broker::new(Arc::clone(&options), Arc::clone(&link.connection));
        match subscribe(&mut broker).await {
            Ok(consumer) => {
                dialer.worked();
                ready.send_replace(Some(Instant::now()));
                hear(consumer, &heard).await;
                ready.send_replace(None);
            }
            Err(error) => tracing::warn!(%error, "the other nodes can't be heard; once more"),
        }
        link.close().await;
    }
}

async fn subscribe(broker: &mut Broker) -> Result<Consumer, BrokerError> {
    broker.declare_presence().await?;
    let channel = broker.fresh_channel().await?;
    let options = QueueDeclareOptions::exclusive().auto_delete();
    let declared = channel.queue_declare(ShortString::default(), options, FieldTable::default());
    let queue = timed(declared).await?.name().clone();
    let bound = channel.queue_bind(
        queue.clone(),
        broker.names.presence().into(),
        ShortString::default(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    timed(bound).await?;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let tag = ShortString::default();
    timed(channel.basic_consume(queue, tag, options, FieldTable::default())).await
}

/// Where it is noted who was heard.
struct Heard {
    cluster_id: Option<String>,
    own: watch::Sender<Arc<Nodes>>,
    all: watch::Sender<Arc<Nodes>>,
}

/// Notes who is heard until the connection is lost.
async fn hear(mut consumer: Consumer, heard: &Heard) {
    let since = Instant::now();
    while let Some(Ok(delivery)) = consumer.next().await {
        let Some(message) = read(&delivery.data) else {
            continue;
        };
        let now = Instant::now();
        let theirs = &message.announcement.cluster;
        if belongs(heard.cluster_id.as_deref(), theirs) {
            let said = message.clone();
            heard
                .own
                .send_modify(|nodes| note(Arc::make_mut(nodes), said, since, now));
        }
        heard
            .all
            .send_modify(|nodes| note(Arc::make_mut(nodes), message, since, now));
    }
}

pub(super) fn read(bytes: &[u8]) -> Option<Message> {
    if bytes.len() > ANNOUNCEMENT_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(bytes).ok()
}

/// Notes a message heard `now` by one who has listened `since`. Nobody is silent while nobody listens, and a
/// counter's new life takes the place of the one before.
pub(super) fn note(nodes: &mut Nodes, message: Message, since: Instant, now: Instant) {
    nodes.retain(|node, sighting| {
        let (known, new) = (&sighting.announcement, &message.announcement);
        let before = (known.role, new.role) == (Role::Counter, Role::Counter)
            && known.name == new.name
            && *node != message.node;
        !before && now.duration_since(sighting.seen_at.max(since)) < SILENCE_MAX
    });
    if nodes.len() >= NODES_MAX && !nodes.contains_key(&message.node) {
        return;
    }
    let sighting = Sighting {
        announcement: message.announcement,
        seen_at: now,
    };
    nodes.insert(message.node, sighting);
}

/// Waits until `nodes` shows what is looked for, or for ever when nobody listens any more.
pub(super) async fn wait_for(
    nodes: &mut watch::Receiver<Arc<Nodes>>,
    found: impl FnMut(&Arc<Nodes>) -> bool,
) {
    if nodes.wait_for(found).await.is_err() {
        pending::<()>().await;
    }
}

#[cfg(test)]
#[path = "presence_tests.rs"]
mod tests;
