//! `headcount counter`: one replica of a cluster.
//!
//! Invariant: it acknowledges to the broker only what its store has committed, and ends when its
//! store fails.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::cluster::{Remotes, amqp_options, cluster_secret, meet_strangers, own_url};
use super::stores::{RunningCounter, open_store, run_counter};
use super::system::{barrier_epochs, new_life, open_endpoints, start_metrics, stop_signal};
use super::{CLOSE_TIMEOUT, Listening, NodeError, check_tasks, told_to_stop};
use crate::clock::now_ms;
use crate::config::CounterConfig;
use crate::counter::{
    Cluster, CounterControl, CounterTask, Healer, HealerOptions, LocalCounter, NotReached, Peer,
};
use crate::http::{self, BodyLimits, CounterApp};
use crate::log::Standing;
use crate::log::amqp::{
    self, AmqpDeliveries, AmqpLog, AmqpOptions, AmqpRole, Announcement, Presence, Role,
};
use crate::model::{CounterName, Partitioning};
use crate::store::data_dir::Belonging;
use crate::store::disk::{DiskReader, DiskStore};
use crate::store::{Store, StoreReader};
use crate::supervisor::{Supervisor, Task};

/// Limits of what other nodes ask: names and positions, no items.
const INTERNAL_BODIES: BodyLimits = BodyLimits {
    body_bytes_max: 64 << 20,
    bodies_bytes_max: 256 << 20,
    body_timeout: Duration::from_secs(30),
};

/// What runs in a counter's process.
struct Running {
    counter: LocalCounter<DiskReader>,
    control: CounterControl,
    task: RunningCounter,
    strangers: oneshot::Receiver<String>,
    _presence: Presence,
}

/// Runs a counter until it is told to stop.
///
/// # Errors
/// When it can't start, or had to stop by itself.
pub async fn counter(
    config: CounterConfig,
    listening: impl FnOnce(Listening),
) -> Result<(), NodeError> {
    let supervisor = Supervisor::default();
    let stop = stop_signal(&supervisor)?;
    let metrics = start_metrics(&supervisor)?;
    let mut amqp = amqp_options(&config.cluster, &supervisor)?;
    amqp.prefetch = config.prefetch;
    amqp.witnesses = vec![config.name.clone()];
    let secret = cluster_secret(&config.cluster)?;
    let endpoints = open_endpoints(&config.common).await?;
    let place = endpoints.place.clone();
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
    tracing::info!(address = %place, name, data_dir = %config.store.data_dir.display(), "ready");
    listening(Listening::Counter {
        name,
        place,
        data_dir: config.store.data_dir,
    });
    let mut stranger = None;
    let stopped = async {
        tokio::select! {
            () = told_to_stop(stop, &supervisor, config.common.shutdown_delay) => {}
            _ = supervisor.ended() => {}
            Ok(why) = running.strangers => stranger = Some(why),
        }
        supervisor.going_down();
    };
    super::run_server(endpoints, http::counter_routes(app), stopped).await;
    // What is not yet acknowledged comes again at the next start.
    let stopped = async {
        // A counter that has ended by itself does not hear it.
        let _ = running.control.stop().await;
        running.task.end().await
    };
    tokio::time::timeout(CLOSE_TIMEOUT, stopped)
        .await
        .map_err(|_| NodeError::CloseTimedOut)??;
    check_tasks(&supervisor)?;
    tracing::info!("stopped");
    stranger.map_or(Ok(()), |why| Err(NodeError::Stranger(why)))
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
    let (cluster, started_at_ms) = (config.cluster.cluster_id.clone(), now_ms());
    let announce = {
        let (name, url) = (name.clone(), url);
        Arc::new(move || {
            let has_history = standing().has_history();
            let cut = reader.cut();
            Announcement {
                version: env!("CARGO_PKG_VERSION").into(),
                role: Role::Counter,
                name: name.clone(),
                cluster: cluster.clone(),
                started_at_ms,
                life,
                url: url.clone(),
                complete: cut.complete(),
                holds_position: has_history,
                started: consuming.borrow().started,
                tenants: cut.tenants(),
                items: cut.items(),
                wire_version: crate::log::wire::VERSION_READ_MAX,
                ..Announcement::default()
            }
        })
    };
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
    let healer = Healer::new(
        counter.clone(),
        control.clone(),
        log,
        barrier_epochs()?,
        Partitioning::SINGLE,
        surroundings(&presence, Arc::clone(remotes), config.name.clone()),
        HealerOptions::default(),
    );
    supervisor.spawn(Task::Healer, healer.run());
    Ok(Running {
        counter,
        control,
        task: run_counter(&supervisor, task),
        strangers,
        _presence: presence,
    })
}

/// What the counter `own` sees of its cluster.
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

/// Says how the store stands whenever it is asked.
fn asked(reader: DiskReader, adopted: bool) -> Arc<dyn Fn() -> Standing + Send + Sync> {
    Arc::new(move || {
        let generation = reader.generation();
        let cut = reader.cut();
        Standing {
            holds_position: !cut.position().is_empty(),
            complete: cut.complete(),
            adopted,
            generation,
        }
    })
}
