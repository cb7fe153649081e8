//! What coordinators and counters have in common: broker options, the shared secret, and the remote
//! counters.
//!
//! Invariant: no error and no log line contains a password or a secret.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::NodeError;
use crate::client::{NodeClient, RemoteCounter};
use crate::config::{BrokerConfig, ClusterConfig, NamedFile, SecretText, SecretTexts, read_secret};
use crate::log::amqp::{AmqpOptions, AmqpUrl, Announcement, Nodes, QueueType, Role, Strangers};
use crate::model::{ClusterSecret, CounterName};
use crate::socket::SocketPlace;
use crate::supervisor::{Ended, Supervisor, Task};

/// The broker options in a node's settings.
pub(super) fn amqp_options(
    cluster: &ClusterConfig,
    supervisor: &Supervisor,
) -> Result<AmqpOptions, NodeError> {
    let queue_type = if cluster.classic_queues {
        QueueType::Classic
    } else {
        QueueType::Quorum
    };
    Ok(AmqpOptions {
        queue_type,
        confirm_timeout: cluster.confirm_timeout,
        heartbeat: cluster.heartbeat,
        supervisor: supervisor.clone(),
        cluster_id: Some(cluster.cluster_id.clone()).filter(|id| !id.is_empty()),
        ..options_of(&cluster.broker)?
    })
}

/// Default options for a broker.
pub(super) fn options_of(broker: &BrokerConfig) -> Result<AmqpOptions, NodeError> {
    let urls: Vec<AmqpUrl> = parse_all("amqp-url", &broker.urls)?;
    let authorities = broker.ca_file.as_ref().map(read_authorities).transpose()?;
    Ok(AmqpOptions {
        authorities,
        prefix: broker.prefix.clone(),
        ..AmqpOptions::new(urls)
    })
}

/// Parses all URLs of a setting. An error shows none of them.
pub(super) fn parse_all<T: FromStr<Err: Display>>(
    key: &'static str,
    texts: &SecretTexts,
) -> Result<Vec<T>, NodeError> {
    let parse = |of: &SecretText| {
        of.text.parse().map_err(|error: T::Err| NodeError::Setting {
            key,
            detail: format!("{error} (from {})", of.source),
        })
    };
    texts.0.iter().map(parse).collect()
}

/// Reads and checks PEM certificates. Without the check, an invalid file would only show as a
/// broker that can't be reached.
fn read_authorities(file: &NamedFile) -> Result<String, NodeError> {
    let fault = |detail: String| NodeError::Setting {
        key: "amqp-ca-file",
        detail: format!("{file}: {detail}"),
    };
    let text = std::fs::read_to_string(&file.path).map_err(|error| fault(error.to_string()))?;
    let count = CertificateDer::pem_slice_iter(text.as_bytes())
        .try_fold(0, |count: usize, certificate| {
            certificate.map(|_| count + 1)
        })
        .map_err(|error| fault(error.to_string()))?;
    if count == 0 {
        return Err(fault("contains no PEM certificate".to_owned()));
    }
    Ok(text)
}

/// The secret that nodes share, if one is set.
pub(super) fn cluster_secret(cluster: &ClusterConfig) -> Result<Option<ClusterSecret>, NodeError> {
    let Some(file) = &cluster.cluster_secret_file else {
        return Ok(None);
    };
    let fault = |detail: String| NodeError::Setting {
        key: "cluster-secret-file",
        detail: format!("{file}: {detail}"),
    };
    let text = read_secret(&file.path).map_err(fault)?;
    let secret = ClusterSecret::new(&text).map_err(|error| fault(error.to_string()))?;
    Ok(Some(secret))
}

/// URL at which other nodes reach this one.
pub(super) fn own_url(cluster: &ClusterConfig, place: &SocketPlace) -> String {
    let given = cluster.advertise_url.clone();
    given.unwrap_or_else(|| place.url())
}

/// A counter's URL and incarnation. If either changes, the counter may have lost its data.
type Life = (String, u64);

/// The remote counters found by discovery, with one connection each.
pub(super) struct Remotes {
    client: NodeClient,
    secret: Option<ClusterSecret>,
    known: Mutex<HashMap<String, (Life, Arc<RemoteCounter>)>>,
}

/// Difference between two states of the membership.
#[derive(Default)]
pub(super) struct Changes {
    /// New counters, and counters with a new incarnation or URL.
    pub added: Vec<(String, Arc<RemoteCounter>)>,
    /// Counters that have sent no announcement for a long time.
    pub removed: Vec<String>,
}

impl Remotes {
    pub(super) fn new(
        secret: Option<ClusterSecret>,
        supervisor: &Supervisor,
    ) -> Result<Self, NodeError> {
        Ok(Self {
            client: NodeClient::new(supervisor)?,
            secret,
            known: Mutex::default(),
        })
    }

    /// Updates the remote counters to the announced nodes.
    pub(super) fn update(&self, nodes: &Nodes) -> Changes {
        let mut known = self.known.lock();
        let mut changes = Changes::default();
        let counters: HashMap<&str, &Announcement> = nodes
            .values()
            .map(|sighting| &sighting.announcement)
            .filter(|node| node.role == Role::Counter)
            .map(|node| (node.name.as_str(), node))
            .collect();
        known.retain(|name, _| {
            let stays = counters.contains_key(name.as_str());
            if !stays {
                changes.removed.push(name.clone());
            }
            stays
        });
        for (name, node) in counters {
            let life = (node.url.clone(), node.life);
            if known.get(name).is_some_and(|(known, _)| *known == life) {
                continue;
            }
            let remote = CounterName::new(name)
                .map(|name| RemoteCounter::new(name, &node.url, self.secret.clone(), &self.client));
            let Some(Ok(remote)) = remote else {
                tracing::warn!(
                    name,
                    url = node.url,
                    "announcement of a counter has an invalid name or URL; ignoring it"
                );
                continue;
            };
            let remote = Arc::new(remote);
            known.insert(name.to_owned(), (life, Arc::clone(&remote)));
            changes.added.push((name.to_owned(), remote));
        }
        changes
    }

    /// All known counters except `own`.
    pub(super) fn others(&self, own: &str) -> Vec<Arc<RemoteCounter>> {
        let known = self.known.lock();
        known
            .iter()
            .filter(|(name, _)| name.as_str() != own)
            .map(|(_, (_, remote))| Arc::clone(remote))
            .collect()
    }
}

/// Calls `changed` with the announced nodes, now and after each change.
pub(super) fn follow(
    supervisor: &Supervisor,
    mut nodes: watch::Receiver<Arc<Nodes>>,
    changed: impl Fn(&Arc<Nodes>) + Send + 'static,
) {
    supervisor.spawn(Task::Members, async move {
        loop {
            let now = Arc::clone(&nodes.borrow_and_update());
            changed(&now);
            if nodes.changed().await.is_err() {
                return Ended::Done;
            }
        }
    });
}

/// Resolves with the reason once this node discovers a node that is incompatible with it.
pub(super) fn meet_strangers(
    supervisor: &Supervisor,
    mut everybody: watch::Receiver<Arc<Nodes>>,
    node: String,
    own: Announcement,
) -> oneshot::Receiver<String> {
    let (met, meeting) = oneshot::channel();
    let mut strangers = Strangers::new(node, own);
    supervisor.spawn(Task::Strangers, async move {
        loop {
            let now = Arc::clone(&everybody.borrow_and_update());
            if let Some(why) = strangers.look(&now, Instant::now()) {
                // If the receiver is gone, the node is shutting down already.
                let _ = met.send(why);
                return Ended::Done;
            }
            if everybody.changed().await.is_err() {
                return Ended::Done;
            }
        }
    });
    meeting
}
