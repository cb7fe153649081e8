//! `headcount counter`: one replica of a cluster.
//!
//! Invariant: a counter acknowledges to the broker only what its store has committed, and stops
//! when its store fails.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::cluster::{Remotes, amqp_options, cluster_secret, meet_strangers, own_url};
use super::skeleton::Skeleton;
use super::stores::{RunningCounter, open_store, run_counter};
use super::system::{barrier_epochs, new_life};
use super::{CLOSE_TIMEOUT, Listening, NodeError, check_tasks};
use crate::clock::now_ms;
use crate::config::CounterConfig;
use crate::counter::{
    AntiEntropy, AntiEntropyOptions, Cluster, CounterControl, CounterTask, LocalCounter,
    NotReached, Peer,
};
use crate::http::{self, BodyLimits, CounterApp};
use crate::log::StoreStatus;
use crate::log::amqp::{
    self, AmqpDeliveries, AmqpLog, AmqpOptions, AmqpRole, Announcement, ConsumerStatus, Presence,
    Role,
};
use crate::model::{CounterName, Partitioning};
use crate::store::data_dir::Belonging;
use crate::store::disk::{DiskReader, DiskStore};
use crate::store::{Store, StoreReader};
use crate::supervisor::Task;

/// Limits on requests of other nodes: they contain names and positions, but no items.
const INTERNAL_BODIES: BodyLimits = BodyLimits {
    body_bytes_max: 64 << 20,
    bodies_bytes_max: 256 << 20,
    body_timeout: Duration::from_secs(30),
};

/// The running parts of a counter's process.
struct Running {
    counter: LocalCounter<DiskReader>,
    control: CounterControl,
    task: RunningCounter,
    strangers: oneshot::Receiver<String>,
    _presence: Presence,
}

/// Runs a counter until it receives a signal to stop.
///
/// # Errors
/// The counter can't start, or stopped because of a failure.
pub async fn counter(
    config: CounterConfig,
    listening: impl FnOnce(Listening),
) -> Result<(), NodeError> {
    let Skeleton {
        supervisor,
        metrics,
        place,
        server,
    } = Skeleton::open(&config.common).await?;
    let mut amqp = amqp_options(&config.cluster, &supervisor)?;
    amqp.prefetch = config.prefetch;
    amqp.witnesses = vec![config.name.clone()];
    let secret = cluster_secret(&config.cluster)?;
    let belonging = Belonging {
        cluster: None,
        counter: config.name.to_string(),
        adopt: config.adopt,
        partitioning: Partitioning::SINGLE,
        now_ms: now_ms(),
    };
    let (store, _) = open_store(&config.store, &belonging)?;
    let url = own_url(&config.cluster, &place);
    let remotes = Arc::new(Remotes::new(secret.clone(), &supervisor)?);
    let refusals = amqp.refusals.clone();
    let running = start(&config, amqp, store, url, &remotes)?;

    let app = CounterApp::new(
        Arc::new(running.counter.clone()),
        INTERNAL_BODIES,
        secret,
        metrics,
        supervisor.clone(),
    )
    .with_refusal(move || refusals.any());
    let name = config.name.to_string();
    tracing::info!(
        address = %place,
        name,
        data_dir = %config.store.data_dir.display(),
        "counter ready"
    );
    listening(Listening::Counter {
        name,
        place,
        data_dir: config.store.data_dir,
    });
    let stranger = met(running.strangers);
    let failure = server.run(http::counter_routes(app), stranger, || {}).await;
    // The broker delivers unacknowledged batches again at the next start.
    let stopped = async {
        // Fails if the counter has already ended.
        let _ = running.control.stop().await;
        running.task.end().await
    };
    tokio::time::timeout(CLOSE_TIMEOUT, stopped)
        .await
        .map_err(|_| NodeError::CloseTimedOut)??;
    check_tasks(&supervisor)?;
    tracing::info!("shutdown complete");
    failure.map_or(Ok(()), Err)
}

/// Resolves once this node discovers a node that is incompatible with it.
async fn met(strangers: oneshot::Receiver<String>) -> NodeError {
    match strangers.await {
        Ok(why) => NodeError::Stranger(why),
        Err(_) => std::future::pending().await,
    }
}

fn start(
    config: &CounterConfig,
    amqp: AmqpOptions,
    store: DiskStore,
    url: String,
    remotes: &Arc<Remotes>,
) -> Result<Running, NodeError> {
    let life = new_life()?;
    let supervisor = amqp.supervisor.clone();
    let reader = store.reader();
    let standing = asked(reader.clone(), config.adopt);
    let (nodes_sender, nodes) = watch::channel(Arc::default());
    let ask = Arc::clone(&standing);
    let deliveries = AmqpDeliveries::start(amqp.clone(), config.name.clone(), ask, nodes);
    let consuming = deliveries.status();
    let name = config.name.to_string();
    let announce = announce(config, life, url, reader, Arc::clone(&standing), consuming);
    let (node, own) = (format!("{name}-{life:016x}"), announce());
    let presence = Presence::start(amqp.clone(), node.clone(), announce);
    let strangers = meet_strangers(&supervisor, presence.everybody(), node, own);
    super::cluster::follow(&supervisor, presence.nodes(), {
        let remotes = Arc::clone(remotes);
        move |nodes| {
            remotes.update(nodes);
            nodes_sender.send_replace(Arc::clone(nodes));
        }
    });
    let (task, counter) = CounterTask::new(name.clone(), life, store, deliveries);
    let control = task.control();
    let log = AmqpLog::start(
        amqp,
        AmqpRole::Counter {
            name: config.name.clone(),
            nodes: presence.nodes(),
        },
    );
    let healer = AntiEntropy::new(
        counter.clone(),
        control.clone(),
        log,
        barrier_epochs()?,
        Partitioning::SINGLE,
        surroundings(&presence, Arc::clone(remotes), config.name.clone()),
        AntiEntropyOptions::default(),
    );
    supervisor.spawn(Task::AntiEntropy, healer.run());
    Ok(Running {
        counter,
        control,
        task: run_counter(&supervisor, task),
        strangers,
        _presence: presence,
    })
}

/// Returns a function that builds the counter's current announcement.
fn announce(
    config: &CounterConfig,
    life: u64,
    url: String,
    reader: DiskReader,
    standing: Arc<dyn Fn() -> StoreStatus + Send + Sync>,
    consuming: watch::Receiver<ConsumerStatus>,
) -> Arc<dyn Fn() -> Announcement + Send + Sync> {
    let fixed = Announcement {
        version: env!("CARGO_PKG_VERSION").into(),
        role: Role::Counter,
        name: config.name.to_string(),
        cluster: config.cluster.cluster_id.clone(),
        started_at_ms: now_ms(),
        life,
        url,
        wire_version: crate::log::wire::VERSION_READ_MAX,
        ..Announcement::default()
    };
    Arc::new(move || {
        let has_history = standing().has_history();
        let state = reader.committed();
        Announcement {
            complete: state.complete(),
            holds_position: has_history,
            started: consuming.borrow().started,
            tenants: state.tenants(),
            items: state.items(),
            ..fixed.clone()
        }
    })
}

/// The view that counter `own` has of its cluster.
fn surroundings(presence: &Presence, remotes: Arc<Remotes>, own: CounterName) -> Cluster {
    let name = own.to_string();
    let peers = move || {
        let others = remotes.others(&name).into_iter();
        others.map(|remote| remote as Arc<dyn Peer>).collect()
    };
    let (nodes, since) = (presence.nodes(), presence.listening_since());
    let not_reached: NotReached = Arc::new(move |lost_at| {
        let since = (*since.borrow(), lost_at);
        amqp::not_reached(&nodes.borrow(), &own, since, Instant::now())
    });
    Cluster {
        peers: Arc::new(peers),
        not_reached,
    }
}

/// Returns a function that reports the current state of the store.
fn asked(reader: DiskReader, adopted: bool) -> Arc<dyn Fn() -> StoreStatus + Send + Sync> {
    Arc::new(move || {
        let generation = reader.generation();
        let committed = reader.committed();
        StoreStatus {
            holds_position: !committed.position().is_empty(),
            complete: committed.complete(),
            adopted,
            generation,
        }
    })
}
