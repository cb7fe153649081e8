//! What a cluster is made of, as a test asks for it.
//!
//! Invariant: without a word it is one coordinator and three counters, on a virtual host of their
//! own.

use std::sync::Arc;

use crate::broker::Broker;
use crate::cluster::Cluster;
use crate::vhost::Vhost;

/// What a cluster is made of.
pub struct Setup {
    pub broker: Arc<Broker>,
    /// Another cluster's, if not one of its own.
    pub vhost: Option<Vhost>,
    pub counters: Vec<String>,
    pub coordinators: usize,
    /// Flags of every node.
    pub flags: Vec<String>,
}

impl Setup {
    /// One coordinator, `c1` to `c3`, on a virtual host of the shared broker.
    pub fn new() -> Self {
        Self::on(Broker::shared())
    }

    /// The same on another broker.
    pub fn on(broker: Arc<Broker>) -> Self {
        Self {
            broker,
            vhost: None,
            counters: ["c1", "c2", "c3"].map(str::to_owned).to_vec(),
            coordinators: 1,
            flags: Vec::new(),
        }
    }

    /// One beside another cluster, on the same virtual host.
    pub fn beside(other: &Cluster) -> Self {
        Self {
            vhost: Some(other.vhost.clone()),
            ..Self::on(Arc::clone(&other.broker))
        }
    }

    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self
    }

    pub fn counters(mut self, names: &[&str]) -> Self {
        self.counters = names.iter().map(|&name| name.to_owned()).collect();
        self
    }

    pub fn coordinators(mut self, count: usize) -> Self {
        self.coordinators = count;
        self
    }
}
