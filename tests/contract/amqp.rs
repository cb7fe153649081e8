//! The log over RabbitMQ: what a counter is told at its start, and what becomes of lost queues.
//!
//! Invariant: every test has exchanges and queues of its own on the broker that `HEADCOUNT_TEST_AMQP_URL` names;
//! without that variable nothing is checked here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headcount::log::amqp::{
    AmqpDeliveries, AmqpLog, AmqpOptions, AmqpRole, Announcement, ConsumerStatus, LogStatus, Nodes,
    Poison, Presence, QueueType, Role, SkipOutcome, depths, remove_counter, skip_poison,
};
use headcount::log::{AppendError, Delivered, Deliveries, DeliveryError, Log, Standing};
use headcount::model::{Batch, CounterName};
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::log::{PATIENCE, batch};

fn name(text: &str) -> CounterName {
    CounterName::new(text).expect("valid")
}

/// A cluster's names on the broker.
pub struct Cluster {
    url: String,
    pub options: AmqpOptions,
    /// What coordinators know by presence: nothing, so that only what is named is declared.
    nobody: watch::Sender<Arc<Nodes>>,
}

impl Cluster {
    /// A cluster of its own, not founded yet; none without a broker.
    pub fn found(_counters: &[&str]) -> Option<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let url = std::env::var("HEADCOUNT_TEST_AMQP_URL").ok()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut options = AmqpOptions::new(vec![url.parse().expect("a broker's URL")]);
        options.prefix = format!("test-{}-{number}", std::process::id());
        options.queue_type = QueueType::Quorum;
        options.presence_interval = Duration::from_millis(100);
        options.depth_interval = Duration::from_millis(100);
        Some(Self {
            url,
            options,
            nobody: watch::channel(Arc::default()).0,
        })
    }

    pub fn coordinator(&self, counters: &[&str]) -> AmqpLog {
        let role = AmqpRole::Coordinator {
            counters: counters.iter().map(|text| name(text)).collect(),
            nodes: self.nobody.subscribe(),
        };
        AmqpLog::start(self.options.clone(), role)
    }

    /// A counter over an empty store.
    pub fn counter(&self, text: &str) -> Counter {
        self.counter_over(text, Arc::default())
    }

    /// A counter over a store that may have a history.
    pub fn counter_over(&self, text: &str, standing: Arc<Mutex<Standing>>) -> Counter {
        let started = Arc::new(Mutex::new(None));
        let announce = {
            let (standing, started) = (Arc::clone(&standing), Arc::clone(&started));
            let text = text.to_owned();
            move || Announcement {
                role: Role::Counter,
                name: text.clone(),
                holds_position: standing.lock().holds_position,
                started: *started.lock(),
                ..Announcement::default()
            }
        };
        let node = format!("{text}-{:p}", Arc::as_ptr(&standing));
        let presence = Presence::start(self.options.clone(), node, Arc::new(announce));
        let ask = {
            let standing = Arc::clone(&standing);
            Arc::new(move || *standing.lock())
        };
        let deliveries =
            AmqpDeliveries::start(self.options.clone(), name(text), ask, presence.nodes());
        let mut status = deliveries.status();
        let following = tokio::spawn(async move {
            while status.changed().await.is_ok() {
                *started.lock() = status.borrow_and_update().started;
            }
        });
        Counter {
            deliveries,
            standing,
            _presence: presence,
            _following: following,
        }
    }

    /// A channel for an operator's mistakes.
    async fn channel(&self) -> Channel {
        let connection = Connection::connect(
            self.url.trim_end_matches('/'),
            ConnectionProperties::default(),
        );
        let connection = connection.await.expect("connected");
        connection.create_channel().await.expect("a channel")
    }

    async fn delete_queue(&self, counter: &str) {
        let queue = format!("{}.items.0.{counter}", self.options.prefix);
        let channel = self.channel().await;
        let deleted = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
        deleted.await.expect("deleted");
    }

    async fn has_marker(&self, marker: &str) -> bool {
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

    /// Publishes what is no batch to every counter.
    async fn publish_junk(&self) {
        let channel = self.channel().await;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        confirms.await.expect("confirms");
        let exchange = format!("{}.items.0", self.options.prefix);
        let published = channel.basic_publish(
            exchange.into(),
            "".into(),
            BasicPublishOptions::default(),
            b"HCB\x63 from the future",
            BasicProperties::default(),
        );
        published
            .await
            .expect("published")
            .await
            .expect("confirmed");
    }
}

/// A counter whose store is only its standing.
pub struct Counter {
    pub deliveries: AmqpDeliveries,
    standing: Arc<Mutex<Standing>>,
    _presence: Presence,
    _following: tokio::task::JoinHandle<()>,
}

impl Counter {
    async fn next(&mut self) -> Result<Option<Delivered>, DeliveryError> {
        let next = tokio::time::timeout(PATIENCE, self.deliveries.next());
        next.await.expect("something in time")
    }

    /// Commits what comes next to the standing and acknowledges it.
    async fn take(&mut self) -> Delivered {
        let delivered = self.next().await.expect("it goes on").expect("not the end");
        {
            let mut standing = self.standing.lock();
            match &delivered {
                Delivered::Batches(_) => standing.holds_position = true,
                Delivered::FromTheBeginning => standing.complete = true,
                Delivered::MayHaveLost { .. } => standing.complete = false,
            }
        }
        self.deliveries.acknowledge().await;
        delivered
    }

    pub async fn begins(&mut self) {
        assert_eq!(self.take().await, Delivered::FromTheBeginning);
    }

    async fn is_told_of_loss(&mut self, why: &str) {
        let delivered = self.take().await;
        let Delivered::MayHaveLost { why: told } = &delivered else {
            panic!("{delivered:?} instead of {why}");
        };
        assert!(told.contains(why), "{told} instead of {why}");
    }

    /// Takes `count` batches; nothing else comes.
    async fn takes(&mut self, count: usize) -> Vec<Arc<Batch>> {
        let mut taken = Vec::new();
        while taken.len() < count {
            match self.take().await {
                Delivered::Batches(batches) => taken.extend(batches),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(taken.len(), count);
        taken
    }

    async fn consumes(&self) {
        let mut status = self.deliveries.status();
        let consuming = status.wait_for(|status: &ConsumerStatus| status.consuming);
        let waited = tokio::time::timeout(PATIENCE, consuming).await;
        waited.expect("in time").expect("it goes on");
    }

    /// Ends it as a process would; its store stays.
    async fn stop(mut self) -> Arc<Mutex<Standing>> {
        self.deliveries.stopper().stop();
        assert_eq!(self.next().await, Ok(None));
        self.standing
    }
}

async fn append(log: &AmqpLog, epoch: u128, sequence: u64) -> Arc<Batch> {
    let appended = batch(epoch, sequence);
    let result = tokio::time::timeout(PATIENCE, log.append(Arc::clone(&appended))).await;
    assert_eq!(result.expect("in time"), Ok(()));
    appended
}

async fn reports(log: &AmqpLog, what: impl FnMut(&LogStatus) -> bool) -> LogStatus {
    let mut status = log.status();
    let waited = tokio::time::timeout(PATIENCE, status.wait_for(what)).await;
    waited.expect("in time").expect("it goes on").clone()
}

macro_rules! with_broker {
    ($($(#[$attribute:meta])* async fn $test:ident($cluster:ident) $body:block)*) => {
        $(
            $(#[$attribute])*
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let Some($cluster) = Cluster::found(&[]) else { return };
                $body
            }
        )*
    };
}

with_broker! {
    async fn what_is_appended_before_any_counter_starts_reaches_all(cluster) {
        let log = cluster.coordinator(&["c1", "c2"]);
        let appended = append(&log, 1, 1).await;
        for text in ["c1", "c2"] {
            let mut counter = cluster.counter(text);
            counter.begins().await;
            assert_eq!(counter.takes(1).await, [Arc::clone(&appended)]);
            counter.stop().await;
        }
    }

    async fn what_is_not_acknowledged_comes_again(cluster) {
        let log = cluster.coordinator(&["c1"]);
        let mut counter = cluster.counter("c1");
        counter.begins().await;
        append(&log, 1, 1).await;
        counter.takes(1).await;
        append(&log, 1, 2).await;
        assert!(matches!(counter.next().await, Ok(Some(Delivered::Batches(_)))));
        let store = counter.stop().await;
        let mut again = cluster.counter_over("c1", store);
        assert_eq!(again.takes(1).await, [batch(1, 2)], "and nothing is said of a loss");
    }

    async fn a_counter_that_lost_its_disk_is_told(cluster) {
        let log = cluster.coordinator(&["c1"]);
        let mut counter = cluster.counter("c1");
        counter.begins().await;
        append(&log, 1, 1).await;
        counter.takes(1).await;
        counter.stop().await;
        let mut empty = cluster.counter("c1");
        empty.is_told_of_loss("its store is empty").await;
    }

    async fn a_newcomer_is_told_that_it_is_not_whole(cluster) {
        let log = cluster.coordinator(&["c1"]);
        append(&log, 1, 1).await;
        let mut newcomer = cluster.counter("c4");
        newcomer.is_told_of_loss("is not there").await;
        newcomer.consumes().await;
        let appended = append(&log, 1, 2).await;
        assert_eq!(newcomer.takes(1).await, [appended]);
    }

    async fn a_queue_deleted_under_its_counter_is_noticed(cluster) {
        let log = cluster.coordinator(&["c1", "c2"]);
        let mut counter = cluster.counter("c1");
        counter.begins().await;
        append(&log, 1, 1).await;
        counter.takes(1).await;
        cluster.delete_queue("c1").await;
        counter.is_told_of_loss("counter c1").await;
        counter.consumes().await;
        let appended = append(&log, 1, 2).await;
        assert_eq!(counter.takes(1).await, [appended]);
    }

    /// ATTACKS 21.
    async fn a_queue_that_a_coordinator_declared_again_is_told_of(cluster) {
        let log = cluster.coordinator(&["c1"]);
        append(&log, 1, 1).await;
        cluster.delete_queue("c1").await;
        reports(&log, |status| status.missing == [name("c1")]).await;
        drop(log);
        let log = cluster.coordinator(&["c1"]);
        let appended = append(&log, 2, 1).await;
        assert!(cluster.has_marker("lost.c1").await);
        let mut counter = cluster.counter("c1");
        counter.is_told_of_loss("declared again").await;
        assert_eq!(counter.takes(1).await, [appended]);
        counter.consumes().await;
        assert!(!cluster.has_marker("lost.c1").await);
        let store = counter.stop().await;
        let counter = cluster.counter_over("c1", store);
        counter.consumes().await;
    }

    async fn a_returned_message_is_declared_for_and_published_again(cluster) {
        let log = cluster.coordinator(&["c1"]);
        append(&log, 1, 1).await;
        cluster.delete_queue("c1").await;
        let appended = append(&log, 1, 2).await;
        assert!(cluster.has_marker("lost.c1").await);
        let mut counter = cluster.counter("c1");
        counter.is_told_of_loss("declared again").await;
        assert_eq!(counter.takes(1).await, [appended]);
    }

    async fn an_exchange_that_is_gone_is_declared_again(cluster) {
        let log = cluster.coordinator(&["c1"]);
        append(&log, 1, 1).await;
        let exchange = format!("{}.items.0", cluster.options.prefix);
        let channel = cluster.channel().await;
        let deleted = channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default());
        deleted.await.expect("deleted");
        append(&log, 1, 2).await;
        let mut counter = cluster.counter("c1");
        counter.begins().await;
        assert_eq!(counter.takes(2).await, [batch(1, 1), batch(1, 2)]);
    }

    /// ATTACKS 24.
    async fn a_replaced_broker_is_noticed_by_full_and_empty_stores(cluster) {
        let _log = cluster.coordinator(&["c1", "c2"]);
        let full = Standing {
            holds_position: true,
            complete: true,
            adopted: false,
        };
        let mut counter = cluster.counter_over("c1", Arc::new(Mutex::new(full)));
        counter.is_told_of_loss("it was replaced").await;
        counter.consumes().await;
        assert!(cluster.has_marker("replaced").await);
        let mut empty = cluster.counter("c2");
        empty.is_told_of_loss("the broker was replaced").await;
    }

    /// ATTACKS 24, the other order: the empty one starts while the full one has not consumed yet.
    async fn an_empty_store_looks_for_older_ones(cluster) {
        let full = Standing {
            holds_position: true,
            complete: true,
            adopted: false,
        };
        let mut counter = cluster.counter_over("c1", Arc::new(Mutex::new(full)));
        let mut empty = cluster.counter("c2");
        let _log = cluster.coordinator(&["c1", "c2"]);
        let (_, ()) = tokio::join!(counter.take(), empty.is_told_of_loss("counter c2 is empty"));
    }

    async fn an_adopted_store_stays_whole(cluster) {
        let log = cluster.coordinator(&["c1", "c2"]);
        let adopted = Standing {
            holds_position: true,
            complete: true,
            adopted: true,
        };
        let mut counter = cluster.counter_over("c1", Arc::new(Mutex::new(adopted)));
        counter.consumes().await;
        let appended = append(&log, 1, 1).await;
        assert_eq!(counter.takes(1).await, [appended]);
        let mut empty = cluster.counter("c2");
        empty.is_told_of_loss("the broker was replaced").await;
    }

    async fn an_adopted_store_comes_first_or_not_at_all(cluster) {
        let _log = cluster.coordinator(&["c1", "c2"]);
        let mut other = cluster.counter("c2");
        other.begins().await;
        other.consumes().await;
        let adopted = Standing {
            holds_position: true,
            complete: true,
            adopted: true,
        };
        let mut counter = cluster.counter_over("c1", Arc::new(Mutex::new(adopted)));
        let refused = counter.next().await;
        assert!(matches!(&refused, Err(DeliveryError::Refused(why)) if why.contains("first")), "{refused:?}");
        assert!(!cluster.has_marker("replaced").await);
    }

    async fn what_cannot_be_read_stops_the_counter_and_stays(cluster) {
        let log = cluster.coordinator(&["c1"]);
        append(&log, 1, 1).await;
        cluster.publish_junk().await;
        let behind = append(&log, 1, 2).await;
        let mut counter = cluster.counter("c1");
        counter.begins().await;
        counter.takes(1).await;
        let stopped = counter.next().await;
        assert!(
            matches!(&stopped, Err(DeliveryError::Undecodable { detail, .. }) if detail.contains("99")),
            "{stopped:?}"
        );
        assert_eq!(counter.next().await, stopped, "asked again, the same");
        let store = counter.standing;
        drop(counter.deliveries);
        let (asked, answers) = std::sync::mpsc::channel();
        let refuse = move |poison: &Poison| asked.send(poison.clone()).is_err();
        let left = loop {
            // The counter's consumer may take a moment to be gone.
            match skip_poison(cluster.options.clone(), &name("c1"), refuse.clone()).await {
                Ok(left) => break left,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let poison = answers.recv().expect("asked");
        assert_eq!(left, SkipOutcome::Left(poison.clone()));
        let skipped = skip_poison(cluster.options.clone(), &name("c1"), |_| true).await;
        assert_eq!(skipped, Ok(SkipOutcome::Skipped(poison)));
        let again = skip_poison(cluster.options.clone(), &name("c1"), |_| true).await;
        assert_eq!(again, Ok(SkipOutcome::NothingToSkip));
        let mut counter = cluster.counter_over("c1", store);
        assert_eq!(counter.takes(1).await, [behind]);
    }

    /// ATTACKS 18.
    async fn a_removed_counter_stays_removed(cluster) {
        let log = cluster.coordinator(&["c1", "c2"]);
        append(&log, 1, 1).await;
        let settings = || Announcement {
            role: Role::Coordinator,
            name: "k".to_owned(),
            named: vec!["c1".to_owned(), "c2".to_owned()],
            ..Announcement::default()
        };
        let presence = Presence::start(cluster.options.clone(), "k".to_owned(), Arc::new(settings));
        let refused = remove_counter(cluster.options.clone(), &name("c2")).await;
        assert!(refused.expect_err("named").to_string().contains("settings of k"));
        drop(presence);
        let removed = remove_counter(cluster.options.clone(), &name("c2")).await;
        assert_eq!(removed, Ok(1));
        append(&log, 1, 2).await;
        let mut counter = cluster.counter("c2");
        assert!(matches!(counter.next().await, Err(DeliveryError::Refused(_))));
        let again = cluster.coordinator(&["c1", "c2"]);
        let status = reports(&again, |status| status.fatal.is_some()).await;
        assert!(status.fatal.is_some_and(|why| why.contains("c2")));
        let refused = tokio::time::timeout(PATIENCE, again.append(batch(2, 1))).await;
        assert!(matches!(refused, Ok(Err(AppendError::Refused(_)))));
        let known = depths(cluster.options.clone(), &[name("c1"), name("c2")]).await;
        assert_eq!(known, Ok(vec![(name("c1"), Some(2)), (name("c2"), None)]));
    }

    async fn a_coordinator_knows_how_long_queues_are(cluster) {
        let log = cluster.coordinator(&["c1", "c2"]);
        append(&log, 1, 1).await;
        append(&log, 1, 2).await;
        let expected = [(name("c1"), 2), (name("c2"), 2)];
        let status = reports(&log, |status| status.depths == expected).await;
        assert!(status.connected && !status.blocked && status.missing.is_empty());
    }

    /// ATTACKS 1: whoever comes second waits until the first is gone.
    async fn a_queue_has_one_consumer_at_a_time(cluster) {
        let log = cluster.coordinator(&["c1"]);
        let mut first = cluster.counter("c1");
        first.begins().await;
        first.consumes().await;
        let store = Arc::new(Mutex::new(Standing { complete: true, ..Standing::default() }));
        let mut second = cluster.counter_over("c1", store);
        second.consumes().await;
        append(&log, 1, 1).await;
        assert!(matches!(first.next().await, Ok(Some(Delivered::Batches(_)))));
        let early = tokio::time::timeout(Duration::from_millis(200), second.deliveries.next()).await;
        assert!(early.is_err(), "{early:?}");
        first.stop().await;
        assert_eq!(second.takes(1).await, [batch(1, 1)]);
    }

    async fn a_counter_appends_once_the_cluster_is_founded(cluster) {
        let barriers = AmqpLog::start(cluster.options.clone(), AmqpRole::Counter);
        let append_early = {
            let barriers = barriers.clone();
            tokio::spawn(async move { append(&barriers, 9, 1).await })
        };
        let mut counter = cluster.counter("c1");
        let early = tokio::time::timeout(Duration::from_millis(300), counter.deliveries.next()).await;
        assert!(early.is_err(), "{early:?}");
        assert!(!append_early.is_finished());
        let _log = cluster.coordinator(&["c1"]);
        counter.begins().await;
        assert_eq!(counter.takes(1).await, [append_early.await.expect("joined")]);
    }
}
