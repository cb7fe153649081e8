//! Discovery: every node announces itself, and receives the announcements of all others.
//!
//! Invariant: the last announcements are kept while the broker is away, and no count depends on
//! them.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Consumer};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::AmqpOptions;
use super::announcement::{Announcement, Message, Nodes, note, read};
use super::broker_error::BrokerError;
use super::connection::{Dialer, random, timed};
use super::elsewhere::{self, Silent};
use super::strangers::belongs;
use super::topology::Broker;
use headcount_runtime::supervisor::Task;

/// Announces this node and listens for announcements until it is dropped.
pub struct Presence {
    nodes: watch::Receiver<Arc<Nodes>>,
    everybody: watch::Receiver<Arc<Nodes>>,
    /// Since when it has been listening; none while it is not.
    listening: watch::Receiver<Option<Instant>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Presence {
    /// Announces this node as `node`, which must be a unique name, with what `announce` returns at
    /// that moment. Must be called on a Tokio runtime, which runs its tasks.
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

    /// Listens without announcing anything, for an operator's command.
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
        // Does not fail: the task listens until this value is dropped.
        let _ = listening.wait_for(Option::is_some).await;
    }

    /// Since when it has been listening without a break; none while it is not.
    #[must_use]
    pub fn listening_since(&self) -> watch::Receiver<Option<Instant>> {
        self.listening.clone()
    }

    /// The nodes of this cluster that were heard, including this one.
    #[must_use]
    pub fn nodes(&self) -> watch::Receiver<Arc<Nodes>> {
        self.nodes.clone()
    }

    /// The nodes of all clusters that were heard, for [`Strangers`](super::Strangers) only.
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
        let mut broker = Broker::new(Arc::clone(&options), &link);
        let announced = async {
            let here = elsewhere::check(&mut broker, Silent::Passes).await?;
            let elsewhere = elsewhere::turns_up(broker.again(), here);
            tokio::select! {
                announced =
                    announce_until_lost(&mut broker, &mut dialer, &node, &*announce) => announced,
                () = elsewhere => Ok(()),
            }
        };
        if let Err(error) = announced.await {
            dialer.is_refused(&error);
            tracing::warn!(%error, "announcing this node failed; retrying");
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
        // A timeout only means that the broker is blocked, so the connection is kept.
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
        let mut broker = Broker::new(Arc::clone(&options), &link);
        let subscribed = async {
            let here = elsewhere::check(&mut broker, Silent::Passes).await?;
            Ok::<_, BrokerError>((subscribe(&mut broker).await?, here))
        };
        match subscribed.await {
            Ok((consumer, here)) => {
                dialer.worked();
                ready.send_replace(Some(Instant::now()));
                tokio::select! {
                    () = hear(consumer, &heard) => {}
                    () = elsewhere::turns_up(broker.again(), here) => {}
                }
                ready.send_replace(None);
            }
            Err(error) => {
                dialer.is_refused(&error);
                tracing::warn!(%error, "receiving announcements failed; retrying");
            }
        }
        link.close().await;
    }
}

async fn subscribe(broker: &mut Broker) -> Result<Consumer, BrokerError> {
    broker.declare_presence().await?;
    let channel = broker.fresh_channel().await?;
    let options = QueueDeclareOptions::exclusive().auto_delete();
    // The name has the prefix because a user with the least rights may not use the names that
    // RabbitMQ generates.
    let queue: ShortString = broker.names.presence_queue(random()).into();
    timed(channel.queue_declare(queue.clone(), options, FieldTable::default())).await?;
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

/// Where announcements are recorded.
struct Heard {
    cluster_id: Option<String>,
    own: watch::Sender<Arc<Nodes>>,
    all: watch::Sender<Arc<Nodes>>,
}

/// Records announcements until the connection is lost.
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

/// Waits until `found` accepts the nodes, or forever if nobody listens any more.
pub(super) async fn wait_for(
    nodes: &mut watch::Receiver<Arc<Nodes>>,
    found: impl FnMut(&Arc<Nodes>) -> bool,
) {
    if nodes.wait_for(found).await.is_err() {
        pending::<()>().await;
    }
}
