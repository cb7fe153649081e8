//! Clusters on a broker of our own, whose counters have a standing instead of a store.
//!
//! Invariant: every cluster has a virtual host of its own.

use std::sync::Arc;
use std::time::Duration;

use headcount::log::amqp::{
    AmqpLog, AmqpOptions, AmqpRole, AmqpUrl, Announcement, LogStatus, Nodes, Presence, QueueType,
    Role,
};
use headcount::log::{Log, StoreStatus};
use headcount::model::{Batch, CounterName};
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::counter::Counter;
use crate::kit::broker::Broker;
use crate::kit::tcp_proxy::TcpProxy;
use crate::kit::vhost::Vhost;
use crate::log::{PATIENCE, batch};

pub fn name(text: &str) -> CounterName {
    CounterName::new(text).expect("valid")
}

/// A cluster's names on the broker.
pub struct Cluster {
    vhost: Vhost,
    broker_port: u16,
    pub options: AmqpOptions,
    /// What coordinators know by presence: nothing, so that only what is named is declared.
    nobody: watch::Sender<Arc<Nodes>>,
}

impl Cluster {
    /// A cluster of its own, not founded yet.
    pub fn new() -> Self {
        let broker = Broker::shared();
        let (vhost, broker_port) = (broker.new_vhost(), broker.node(0).port());
        let url = vhost.url(broker_port);
        let mut options = AmqpOptions::new(vec![url.parse().expect("a broker's URL")]);
        options.queue_type = QueueType::Quorum;
        options.presence_interval = Duration::from_millis(100);
        options.depth_interval = Duration::from_millis(100);
        options.witnesses = vec![name("c1")];
        Self {
            vhost,
            broker_port,
            options,
            nobody: watch::channel(Arc::default()).0,
        }
    }

    /// Leaves its user the rights that the operations guide names, and no others.
    pub fn restrict(&self) {
        // Erlang's strings take the backslash away once, and the broker's file of rules is none.
        let rights = [
            "^headcount[.]",
            "^headcount[.]|^amq[.]default$",
            "^headcount[.]",
        ];
        self.vhost.restrict(Broker::shared().node(0), rights);
    }

    /// Makes what an export of another's definitions has, as on a node where they are imported.
    pub fn import(&self, other: &Self) {
        let broker = Broker::shared();
        let definitions = other.vhost.definitions(broker.node(0));
        self.vhost.define(broker.node(0), &definitions);
    }

    /// A way to the broker that can be held up.
    pub fn relay(&self) -> TcpProxy {
        TcpProxy::to_port(self.broker_port)
    }

    /// The broker's address by way of `relay`.
    pub fn url_by(&self, relay: &TcpProxy) -> AmqpUrl {
        let url = self.vhost.url(relay.port());
        url.parse().expect("a broker's URL")
    }

    fn options_by(&self, relay: &TcpProxy) -> AmqpOptions {
        AmqpOptions {
            urls: vec![self.url_by(relay)],
            ..self.options.clone()
        }
    }

    pub fn coordinator(&self, counters: &[&str]) -> AmqpLog {
        self.coordinator_with(self.options.clone(), counters)
    }

    /// A coordinator that reaches the broker by way of `relay`.
    pub fn coordinator_by(&self, relay: &TcpProxy, counters: &[&str]) -> AmqpLog {
        self.coordinator_with(self.options_by(relay), counters)
    }

    /// The log to which a counter appends its barriers.
    pub fn barriers_of(&self, counter: &str) -> AmqpLog {
        let role = AmqpRole::Counter {
            name: name(counter),
            nodes: self.nobody.subscribe(),
        };
        AmqpLog::start(self.options.clone(), role)
    }

    /// A coordinator that hears counters, and reaches those that it hears.
    pub fn coordinator_that_hears(&self, counters: &[&str]) -> (AmqpLog, Presence) {
        let itself = || Announcement {
            role: Role::Coordinator,
            ..Announcement::default()
        };
        let presence = Presence::start(self.options.clone(), "k".to_owned(), Arc::new(itself));
        let role = AmqpRole::Coordinator {
            counters: counters.iter().map(|text| name(text)).collect(),
            nodes: presence.nodes(),
        };
        (AmqpLog::start(self.options.clone(), role), presence)
    }

    fn coordinator_with(&self, options: AmqpOptions, counters: &[&str]) -> AmqpLog {
        let role = AmqpRole::Coordinator {
            counters: counters.iter().map(|text| name(text)).collect(),
            nodes: self.nobody.subscribe(),
        };
        AmqpLog::start(options, role)
    }

    /// A counter over an empty store.
    pub fn counter(&self, text: &str) -> Counter {
        self.counter_over(text, Arc::default())
    }

    /// A counter over a store that may have a history.
    pub fn counter_over(&self, text: &str, standing: Arc<Mutex<StoreStatus>>) -> Counter {
        self.counter_with(self.options.clone(), text, standing)
    }

    /// The same; it consumes by way of `relay`.
    pub fn counter_by(
        &self,
        relay: &TcpProxy,
        text: &str,
        standing: Arc<Mutex<StoreStatus>>,
    ) -> Counter {
        self.counter_with(self.options_by(relay), text, standing)
    }

    fn counter_with(
        &self,
        consuming: AmqpOptions,
        text: &str,
        standing: Arc<Mutex<StoreStatus>>,
    ) -> Counter {
        Counter::start(self.options.clone(), consuming, text, standing)
    }

    /// A channel for an operator's mistakes.
    pub async fn channel(&self) -> Channel {
        let url = self.vhost.url(self.broker_port);
        let connection = Connection::connect(&url, ConnectionProperties::default());
        let connection = connection.await.expect("connected");
        connection.create_channel().await.expect("a channel")
    }

    /// What the broker believes of a counter's queue: `crashed` or `live`.
    pub fn set_queue_state(&self, counter: &str, state: &str) {
        let queue = format!("{}.items.0.{counter}", self.options.prefix);
        let broker = Broker::shared();
        self.vhost.set_queue_state(broker.node(0), &queue, state);
    }

    /// The name of a counter's generation queue.
    pub fn generation_queue(&self, counter: &str) -> String {
        format!("{}.generation.{counter}", self.options.prefix)
    }

    /// How many messages wait in a counter's generation queue, if there is one.
    pub async fn generations(&self, counter: &str) -> Option<u32> {
        let passive = QueueDeclareOptions::default().passive();
        let queue = self.generation_queue(counter);
        let channel = self.channel().await;
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default());
        declared.await.ok().map(|queue| queue.message_count())
    }

    pub async fn delete_items_exchange(&self) {
        let exchange = format!("{}.items.0", self.options.prefix);
        let channel = self.channel().await;
        let deleted = channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default());
        deleted.await.expect("deleted");
    }

    /// Takes a counter's queue off the items' exchange.
    pub async fn unbind(&self, counter: &str) {
        let exchange = format!("{}.items.0", self.options.prefix);
        let queue = format!("{exchange}.{counter}");
        let channel = self.channel().await;
        let (key, arguments) = (ShortString::default(), FieldTable::default());
        let unbound = channel.queue_unbind(queue.into(), exchange.into(), key, arguments);
        unbound.await.expect("unbound");
    }

    /// What a client says who declares this exchange, whether it is there or not.
    pub fn declaration_of(&self, exchange: &str) -> Vec<u8> {
        const DURABLE: u8 = 2;
        self.said_of(exchange, DURABLE)
    }

    /// What a client says who asks whether this exchange is there.
    pub fn question_for(&self, exchange: &str) -> Vec<u8> {
        const PASSIVE: u8 = 1;
        self.said_of(exchange, PASSIVE)
    }

    fn said_of(&self, exchange: &str, flags: u8) -> Vec<u8> {
        let name = format!("{}.{exchange}", self.options.prefix);
        let length = u8::try_from(name.len()).expect("short");
        [&[length], name.as_bytes(), &[6], b"fanout", &[flags]].concat()
    }

    /// Creates a counter's queue, with nothing in it and without a word to anybody.
    pub async fn create_queue(&self, counter: &str) {
        let mut arguments = FieldTable::default();
        let mut insert = |name: &str, value| {
            arguments.insert(name.into(), value);
        };
        insert("x-queue-type", AMQPValue::LongString("quorum".into()));
        insert("x-single-active-consumer", AMQPValue::Boolean(true));
        insert("x-delivery-limit", AMQPValue::LongLongInt(1_000_000_000));
        insert("x-consumer-disconnected-timeout", AMQPValue::LongLongInt(0));
        let queue = format!("{}.items.0.{counter}", self.options.prefix);
        let channel = self.channel().await;
        let options = QueueDeclareOptions::durable();
        let created = channel.queue_declare(queue.into(), options, arguments);
        created.await.expect("created");
    }

    pub async fn delete_queue(&self, counter: &str) {
        let queue = format!("{}.items.0.{counter}", self.options.prefix);
        let channel = self.channel().await;
        let deleted = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
        deleted.await.expect("deleted");
    }

    /// Declares a marker.
    pub async fn mark(&self, marker: &str) {
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let exchange = format!("{}.{marker}", self.options.prefix);
        let (channel, kind) = (self.channel().await, ExchangeKind::Fanout);
        let declared =
            channel.exchange_declare(exchange.into(), kind, durable, FieldTable::default());
        declared.await.expect("declared");
    }

    pub async fn has_marker(&self, marker: &str) -> bool {
        let passive = ExchangeDeclareOptions {
            passive: true,
            ..ExchangeDeclareOptions::default()
        };
        let exchange = format!("{}.{marker}", self.options.prefix);
        let channel = self.channel().await;
        let declared = channel.exchange_declare(
            exchange.into(),
            ExchangeKind::Fanout,
            passive,
            FieldTable::default(),
        );
        declared.await.is_ok()
    }

    /// Publishes to every counter what no coordinator would.
    pub async fn publish(&self, bytes: &[u8]) {
        let channel = self.channel().await;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        confirms.await.expect("confirms");
        let exchange = format!("{}.items.0", self.options.prefix);
        let published = channel.basic_publish(
            exchange.into(),
            "".into(),
            BasicPublishOptions::default(),
            bytes,
            BasicProperties::default(),
        );
        published
            .await
            .expect("published")
            .await
            .expect("confirmed");
    }
}

pub async fn append(log: &AmqpLog, epoch: u128, sequence: u64) -> Arc<Batch> {
    let appended = batch(epoch, sequence);
    let result = tokio::time::timeout(PATIENCE, log.append(Arc::clone(&appended))).await;
    assert_eq!(result.expect("in time"), Ok(None));
    appended
}

pub async fn reports(log: &AmqpLog, what: impl FnMut(&LogStatus) -> bool) -> LogStatus {
    let mut status = log.status();
    let waited = tokio::time::timeout(PATIENCE, status.wait_for(what)).await;
    waited.expect("in time").expect("it goes on").clone()
}
