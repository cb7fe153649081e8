//! What coordinators and counters of a cluster share: the broker's address, the secret, who is
//! there.
//!
//! Invariant: a password or secret is in no error and no log line.

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

/// The broker's options of a node's settings.
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

/// The usual options for a broker.
pub(super) fn options_of(broker: &BrokerConfig) -> Result<AmqpOptions, NodeError> {
    let urls: Vec<AmqpUrl> = parse_all("amqp-url", &broker.urls)?;
    let authorities = broker.ca_file.as_ref().map(read_authorities).transpose()?;
    Ok(AmqpOptions {
        authorities,
        prefix: broker.prefix.clone(),
        ..AmqpOptions::new(urls)
    })
}

/// All addresses of a setting, none of which its error shows.
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

/// Certificates in PEM; what is none would only be noticed as a broker that is never reached.
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
        return Err(fault("holds no certificate in PEM".to_owned()));
    }
    Ok(text)
}

/// The nodes' secret, if there is one.
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

/// Where others reach this node.
pub(super) fn own_url(cluster: &ClusterConfig, place: &SocketPlace) -> String {
    let given = cluster.advertise_url.clone();
    given.unwrap_or_else(|| place.url())
}

/// A counter's life at an address: with another, the counter may have lost what it held.
type Life = (String, u64);

/// The remote counters that presence tells of, one connection each.
pub(super) struct Remotes {
    client: NodeClient,
    secret: Option<ClusterSecret>,
    known: Mutex<HashMap<String, (Life, Arc<RemoteCounter>)>>,
}

/// What changed between two looks at who is there.
#[derive(Default)]
pub(super) struct Changes {
    /// Counters that are new, or have a new life or address.
    pub added: Vec<(String, Arc<RemoteCounter>)>,
    /// Counters that have not been heard of for long.
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

    /// Takes in who is there now.
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
                tracing::warn!(name, url = node.url, "a counter announces itself wrongly");
                continue;
            };
            let remote = Arc::new(remote);
            known.insert(name.to_owned(), (life, Arc::clone(&remote)));
            changes.added.push((name.to_owned(), remote));
        }
        changes
    }

    /// Every counter known now but `own`.
    pub(super) fn others(&self, own: &str) -> Vec<Arc<RemoteCounter>> {
        let known = self.known.lock();
        known
            .iter()
            .filter(|(name, _)| name.as_str() != own)
            .map(|(_, (_, remote))| Arc::clone(remote))
            .collect()
    }
}

/// Calls `changed` with who is there, now and whenever that changes.
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

/// Resolves, with the reason, once this node meets another that it can't go together with.
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
                // Who no longer waits goes down already.
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
