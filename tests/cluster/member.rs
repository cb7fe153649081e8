//! A process of a cluster with its links to the broker.
//!
//! Invariant: each process has links of its own, so that one can be spoiled alone.

use std::path::PathBuf;

use crate::broker::Broker;
use crate::broker_node::BrokerNode;
use crate::process::Process;
use crate::tcp_proxy::{Flow, TcpProxy};

/// The links of a process to those of the broker's nodes that it uses, in the order in which it
/// tries them.
pub struct Links(Vec<TcpProxy>);

impl Links {
    pub fn to(broker: &Broker) -> Self {
        let relay = |node: &BrokerNode| TcpProxy::to_port(node.way().0);
        Self(broker.nodes().iter().map(relay).collect())
    }

    pub fn through(broker: &Broker, nodes: &[usize]) -> Self {
        let relay = |&number: &usize| TcpProxy::to_port(broker.node(number).way().0);
        Self(nodes.iter().map(relay).collect())
    }

    pub fn cut(&self) {
        self.0.iter().for_each(TcpProxy::cut);
    }

    pub fn down(&self) {
        self.0.iter().for_each(TcpProxy::down);
    }

    pub fn up(&self) {
        self.0.iter().for_each(TcpProxy::up);
    }

    /// What happens to what the process sends, and to what comes back.
    pub fn flow(&self, there: Flow, back: Flow) {
        self.0.iter().for_each(|relay| relay.flow(there, back));
    }

    pub fn orphan(&self) {
        self.0.iter().for_each(TcpProxy::orphan);
    }

    /// The ports by which the process reaches the broker, in the order in which it tries them.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.0.iter().map(TcpProxy::port)
    }

    /// The link to the broker's first node, which is the only one of most.
    pub fn first(&self) -> &TcpProxy {
        &self.0[0]
    }
}

/// A process with its links.
pub struct Member {
    pub process: Process,
    pub links: Links,
    /// The way by which others reach its HTTP server, where it is not asked directly.
    pub door: Option<TcpProxy>,
    pub data_dir: PathBuf,
}
