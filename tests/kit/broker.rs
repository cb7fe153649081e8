//! Brokers of our own: one or more RabbitMQ nodes, shared by all tests of the process or private to
//! one.
//!
//! Invariant: a broker serves before a test gets it, and a test that harms its broker has one of
//! its own.

use std::sync::{Arc, LazyLock};

use super::broker_node::BrokerNode;
use super::vhost::Vhost;

/// The user of all tests. The password must not appear in any log.
pub const USER: &str = "tester";

/// What no log may hold.
pub const PASSWORD: &str = "not-for-any-log";

/// A certificate of our own for this machine, and its key, in PEM.
pub struct Tls {
    pub certificate: String,
    pub(super) key: String,
}

impl Tls {
    pub fn new() -> Self {
        let names = vec!["127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("made");
        Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }
}

/// A broker of one or more nodes.
pub struct Broker {
    pub(super) nodes: Vec<BrokerNode>,
}

impl Broker {
    /// The broker of the tests that do not harm it: one for the process.
    pub fn shared() -> Arc<Self> {
        static SHARED: LazyLock<Arc<Broker>> = LazyLock::new(Broker::private);
        Arc::clone(&SHARED)
    }

    /// A broker for one test alone.
    pub fn private() -> Arc<Self> {
        Self::with_settings("")
    }

    /// The same, with these lines in its settings.
    pub fn with_settings(settings: &str) -> Arc<Self> {
        let broker = Self {
            nodes: vec![BrokerNode::new(0, settings)],
        };
        broker.node(0).wait_until_up();
        Arc::new(broker)
    }

    /// The same, speaking TLS to nodes.
    pub fn with_tls(tls: &Tls) -> Arc<Self> {
        let mut node = BrokerNode::prepare(0, "");
        node.add_tls(tls);
        node.start();
        node.wait_until_up();
        Arc::new(Self { nodes: vec![node] })
    }

    pub fn node(&self, number: usize) -> &BrokerNode {
        &self.nodes[number]
    }

    pub fn nodes(&self) -> &[BrokerNode] {
        &self.nodes
    }

    /// `kill -9` and a new life of the only node.
    pub fn kill_and_restart(&self) {
        self.node(0).kill();
        self.node(0).start();
        self.node(0).wait_until_up();
    }

    /// A virtual host that nobody has used.
    pub fn new_vhost(&self) -> Vhost {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let vhost = Vhost::named(&format!("v{number}"));
        vhost.create(self.node(0));
        vhost
    }
}
