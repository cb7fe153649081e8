//! Three RabbitMQ nodes that are one broker: how they become that, lose each other, lose a disk,
//! and come back.
//!
//! Invariant: what is done here to a node is what an operator or a failing machine does: signals,
//! files, and RabbitMQ's own commands.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::broker::Broker;
use super::broker_node::{BrokerNode, COOKIE};
use super::rabbitmq::major;
use super::reaper;
use super::wait::{PATIENCE, until_blocking};

/// The longest that one of RabbitMQ's commands may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// What the nodes do once those that were apart meet again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionHandling {
    /// Nothing: RabbitMQ's default.
    Ignore,
    /// A node that sees no majority stops serving.
    PauseMinority,
    /// The nodes of the smaller side start again.
    Autoheal,
}

impl PartitionHandling {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::PauseMinority => "pause_minority",
            Self::Autoheal => "autoheal",
        }
    }
}

/// How the nodes of a broker are set.
#[derive(Debug, Clone, Copy)]
pub struct Nodes {
    pub partition_handling: PartitionHandling,
    /// After so many seconds without a word of a node, to within a quarter, the others take it for
    /// gone.
    pub net_ticktime_s: u32,
    /// Whether they have the management API.
    pub management: bool,
}

impl Nodes {
    /// A minority stops serving; the time is RabbitMQ's default.
    pub fn new() -> Self {
        Self {
            partition_handling: PartitionHandling::PauseMinority,
            net_ticktime_s: 60,
            management: false,
        }
    }

    fn prepare(self, number: usize) -> BrokerNode {
        let mut node = BrokerNode::prepare(number, "");
        node.configure(&format!(
            "cluster_partition_handling = {}\nnet_ticktime = {}\n",
            self.partition_handling.as_str(),
            self.net_ticktime_s
        ));
        if self.management {
            let port = reaper::free_port();
            node.enable("rabbitmq_management");
            node.configure(&format!(
                "management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {port}\n"
            ));
            // Its own counts, since the tree of version 4 has no /proc.
            node.configure("vm_memory_calculation_strategy = allocated\n");
            node.management_port = Some(port);
        }
        node
    }
}

impl BrokerNode {
    /// The address of its management API, without a user.
    pub fn management_port(&self) -> u16 {
        self.management_port.expect("it has the management API")
    }

    /// Runs one of RabbitMQ's own commands for this node, and gives what it prints.
    ///
    /// # Errors
    /// What it says when it fails.
    pub fn try_run(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let mut command = self.command(program);
        command
            .args(["--quiet", "--node", self.name()])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = reaper::spawn(&mut command);
        let read = |pipe: Option<Box<dyn std::io::Read + Send>>| {
            let pipe = pipe.expect("piped");
            std::thread::spawn(move || std::io::read_to_string(pipe).unwrap_or_default())
        };
        let stdout = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
        let stderr = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
        let deadline = Instant::now() + COMMAND_LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait().expect("waited") {
                reaper::ended(child.id());
                break status;
            }
            if Instant::now() > deadline {
                reaper::kill(&mut child);
                return Err(format!("{program} {args:?} does not end"));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let (stdout, stderr) = (stdout.join(), stderr.join());
        let (stdout, stderr) = (stdout.expect("read"), stderr.expect("read"));
        match status.success() {
            true => Ok(stdout),
            false => Err(format!("{program} {args:?}: {status}\n{stdout}{stderr}")),
        }
    }

    /// The same where it must succeed.
    #[track_caller]
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        self.try_run(program, args)
            .unwrap_or_else(|why| panic!("on {}: {why}\n{}", self.name(), self.log()))
    }

    /// Waits until it serves and sees so many nodes of its cluster running.
    pub fn wait_until_of(&self, count: u64) {
        self.wait_until_up();
        let what = format!("{} in a cluster of {count}", self.name());
        until_blocking(&what, PATIENCE, || match self.running_nodes() {
            Ok(seen) if seen == count => Ok(()),
            seen => Err(seen),
        });
    }
}

impl Broker {
    /// Three nodes that are one cluster; a minority stops serving.
    pub fn of_three() -> Arc<Self> {
        Self::of_three_with(Nodes::new())
    }

    /// Three nodes that are one cluster.
    pub fn of_three_with(nodes: Nodes) -> Arc<Self> {
        let broker = Self {
            nodes: (0..3).map(|number| nodes.prepare(number)).collect(),
        };
        match major() {
            3 => {
                broker.nodes.iter().for_each(BrokerNode::start);
                broker.node(0).wait_until_up();
                for number in 1..3 {
                    broker.node(number).wait_until_up();
                    broker.join(number, 0);
                }
            }
            // Quicker; a cluster of this version is seldom made by hand.
            _ => broker.discover_each_other(),
        }
        Arc::new(broker)
    }

    /// A broker of one node that runs; two more are prepared, to be joined to it later.
    pub fn of_one_that_grows(nodes: Nodes) -> Arc<Self> {
        let broker = Self {
            nodes: (0..3).map(|number| nodes.prepare(number)).collect(),
        };
        broker.node(0).start();
        broker.node(0).wait_until_up();
        Arc::new(broker)
    }

    /// Makes a node that holds nothing that is needed a part of another's cluster; one that
    /// discovers the others by itself is that already.
    pub fn join(&self, number: usize, to: usize) {
        let node = self.node(number);
        let seen = self.node(to).running_nodes().expect("it answers");
        if node.running_nodes() == Ok(seen) && seen > 1 {
            return;
        }
        node.run("rabbitmqctl", &["stop_app"]);
        node.run("rabbitmqctl", &["reset"]);
        node.run("rabbitmqctl", &["join_cluster", self.node(to).name()]);
        node.run("rabbitmqctl", &["start_app"]);
        node.wait_until_of(seen + 1);
    }

    /// Takes a node that is gone for good out of the cluster, as `by` sees it. Quorum queues lose
    /// their member there, but for those that have no other.
    pub fn forget(&self, number: usize, by: usize) {
        let name = self.node(number).name();
        self.node(by)
            .run("rabbitmqctl", &["forget_cluster_node", name]);
    }

    /// Gives every quorum queue a member on a node.
    pub fn grow(&self, number: usize) {
        let node = self.node(number);
        node.run("rabbitmq-queues", &["grow", node.name(), "all"]);
    }

    /// By their own means: joining by hand can end a node of version 4.
    fn discover_each_other(&self) {
        let mut config = "cluster_formation.peer_discovery_backend = classic_config\n".to_owned();
        for (number, node) in (1..).zip(&self.nodes) {
            let name = node.name();
            config += &format!("cluster_formation.classic_config.nodes.{number} = {name}\n");
        }
        for node in &self.nodes {
            node.configure(&config);
            node.start();
        }
        for node in &self.nodes {
            node.wait_until_up();
            until_blocking("a node with two others", PATIENCE, || {
                match node.running_nodes() {
                    Ok(3) => Ok(()),
                    seen => Err(seen),
                }
            });
        }
    }

    /// Cuts a node off from the others, though not from clients. Both sides find out at once.
    pub fn isolate(&self, number: usize) {
        let cut: String = self
            .others(number)
            .map(|name| {
                format!("erlang:set_cookie('{name}', cut_off), erlang:disconnect_node('{name}'), ")
            })
            .collect();
        self.node(number).eval(&format!("{cut}ok"));
        until_blocking("a node without others", PATIENCE, || {
            let seen = self.node(number).eval("nodes()");
            if seen == "[]" { Ok(()) } else { Err(seen) }
        });
    }

    /// Lets a node meet the others again.
    pub fn reunite(&self, number: usize) {
        let meet: String = self
            .others(number)
            .map(|name| {
                format!(
                    "erlang:set_cookie('{name}', '{COOKIE}'), net_kernel:connect_node('{name}'), "
                )
            })
            .collect();
        self.node(number).eval(&format!("{meet}ok"));
    }

    fn others(&self, number: usize) -> impl Iterator<Item = &str> {
        self.nodes
            .iter()
            .enumerate()
            .filter(move |(other, _)| *other != number)
            .map(|(_, node)| node.name())
    }
}
