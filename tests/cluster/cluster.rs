//! A cluster of real processes around a broker, with a relay on every link.
//!
//! Invariant: when a test fails, the ends of all logs are printed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use tempfile::TempDir;

use crate::broker::{Broker, PASSWORD};
use crate::member::Links;
use crate::node::{Ran, client_builder, run};
use crate::process::{Face, Process};
use crate::reaper;
use crate::tcp_proxy::TcpProxy;
use crate::vhost::Vhost;

pub use crate::member::Member;
pub use crate::setup::Setup;

/// What a client of ours waits for an answer: longer than any timeout of the product's that is set
/// below.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);

/// Flags of all coordinators: give up sooner than by default, so that tests see it.
const COORDINATOR_FLAGS: [&str; 4] = [
    "--accept-timeout-ms",
    "3000",
    "--confirm-timeout-ms",
    "2000",
];

/// Flags of all counters.
const COUNTER_FLAGS: [&str; 4] = ["--memory-mb", "4", "--confirm-timeout-ms", "2000"];

/// A cluster.
pub struct Cluster {
    pub broker: Arc<Broker>,
    pub vhost: Vhost,
    pub http: Client,
    coordinators: Vec<Member>,
    counters: BTreeMap<String, Member>,
    setup: Setup,
    folder: TempDir,
    secret: PathBuf,
}

impl Cluster {
    /// Everything but the processes.
    pub fn prepare(setup: Setup) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        reaper::remove_at_the_end(folder.path());
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "the-secret-of-nodes-that-are-tested\n").expect("written");
        let http = client_builder()
            .timeout(ANSWER_LIMIT)
            .build()
            .expect("a client");
        Self {
            broker: Arc::clone(&setup.broker),
            vhost: setup
                .vhost
                .clone()
                .unwrap_or_else(|| setup.broker.new_vhost()),
            http,
            coordinators: Vec::new(),
            counters: BTreeMap::new(),
            setup,
            folder,
            secret,
        }
    }

    /// A cluster whose counters are all complete, and whose coordinators know what was acknowledged
    /// before them.
    pub async fn start(setup: Setup) -> Self {
        let mut cluster = Self::prepare(setup);
        cluster.start_coordinators();
        cluster.start_counters();
        cluster.wait_until_complete().await;
        for number in 0..cluster.coordinators.len() {
            cluster.exact_count(number, "nobody", "").await;
        }
        cluster
    }

    pub fn start_coordinators(&mut self) {
        for _ in 0..self.setup.coordinators {
            let links = Links::to(&self.broker);
            let counters = self.setup.counters.clone();
            self.add_coordinator(&counters, links, &[]);
        }
    }

    /// Starts a coordinator whose settings name `counters`, and which uses only these nodes of the
    /// broker.
    pub fn start_coordinator_through(
        &mut self,
        nodes: &[usize],
        counters: &[&str],
        flags: &[&str],
    ) {
        let links = Links::through(&self.broker, nodes);
        let counters: Vec<String> = counters.iter().map(|&name| name.to_owned()).collect();
        self.add_coordinator(&counters, links, flags);
    }

    fn add_coordinator(&mut self, counters: &[String], links: Links, flags: &[&str]) {
        let mut args = self.args("coordinator", &links);
        args.extend(["--counters".to_owned(), counters.join(",")]);
        args.extend(["--listen".to_owned(), "127.0.0.1:0".to_owned()]);
        args.extend(COORDINATOR_FLAGS.map(str::to_owned));
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let name = format!("coordinator-{}", self.coordinators.len());
        self.coordinators.push(Member {
            process: Process::start(&name, args, self.folder.path()),
            links,
            door: None,
            data_dir: PathBuf::new(),
        });
    }

    /// What starts from now on gets no flags beside the usual ones.
    pub fn forget_flags(&mut self) {
        self.setup.flags.clear();
    }

    pub fn start_counters(&mut self) {
        for name in self.setup.counters.clone() {
            self.start_counter(&name, &[]);
        }
    }

    /// Starts a counter that never ran here, with more flags.
    pub fn start_counter(&mut self, name: &str, flags: &[&str]) -> &mut Member {
        let links = Links::to(&self.broker);
        self.add_counter(name, links, flags)
    }

    /// The same for one that uses only these nodes of the broker.
    pub fn start_counter_through(&mut self, nodes: &[usize], name: &str) {
        let links = Links::through(&self.broker, nodes);
        self.add_counter(name, links, &[]);
    }

    /// Starts a counter, or the first coordinator, anew with these nodes of the broker.
    pub fn reach_through(&mut self, who: &str, nodes: &[usize]) {
        let links = Links::through(&self.broker, nodes);
        let urls: Vec<String> = self.urls_by(&links).collect();
        let member = match who {
            "coordinator" => self.coordinator(0),
            name => self.counter(name),
        };
        member.process.terminate();
        let args = member.process.args_mut();
        let at = args.iter().position(|arg| arg == "--amqp-url");
        args[at.expect("an address") + 1] = urls.join(",");
        member.links = links;
        member.process.restart();
    }

    fn add_counter(&mut self, name: &str, links: Links, flags: &[&str]) -> &mut Member {
        let data_dir = self.data_dir(name);
        let port = reaper::free_port();
        let door = TcpProxy::to_port(port);
        let mut args = self.args("counter", &links);
        args.extend(["--name".to_owned(), name.to_owned()]);
        args.extend(["--data-dir".to_owned(), data_dir.display().to_string()]);
        args.extend(["--listen".to_owned(), format!("127.0.0.1:{port}")]);
        let advertised = format!("http://127.0.0.1:{}", door.port());
        args.extend(["--advertise-url".to_owned(), advertised]);
        args.extend(COUNTER_FLAGS.map(str::to_owned));
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let member = Member {
            process: Process::start(name, args, self.folder.path()),
            links,
            door: Some(door),
            data_dir,
        };
        self.counters.insert(name.to_owned(), member);
        self.counter(name)
    }

    /// Where a counter of this name has its folder.
    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The broker's addresses by way of these links.
    fn urls_by(&self, links: &Links) -> impl Iterator<Item = String> {
        let (_, scheme) = self.broker.node(0).way();
        links
            .ports()
            .map(move |port| self.vhost.url_of(scheme, port))
    }

    fn args(&self, command: &str, links: &Links) -> Vec<String> {
        let mut args = vec![command.to_owned(), "--log".to_owned(), "info".to_owned()];
        for url in self.urls_by(links) {
            args.extend(["--amqp-url".to_owned(), url]);
        }
        args.extend([
            "--cluster-secret-file".to_owned(),
            self.secret.display().to_string(),
        ]);
        args.extend(self.setup.flags.clone());
        args
    }

    pub fn coordinator(&mut self, number: usize) -> &mut Member {
        &mut self.coordinators[number]
    }

    pub fn counter(&mut self, name: &str) -> &mut Member {
        self.counters.get_mut(name).expect("a counter of this name")
    }

    /// The counters that run.
    pub fn running(&self) -> Vec<String> {
        let running = self
            .counters
            .iter()
            .filter(|(_, member)| member.process.runs());
        running.map(|(name, _)| name.clone()).collect()
    }

    pub fn faces(&self) -> Vec<Face> {
        self.coordinators
            .iter()
            .map(|member| member.process.face())
            .collect()
    }

    pub fn secret(&self) -> String {
        self.secret.display().to_string()
    }

    /// The broker's address for an operator's command.
    pub fn amqp_url(&self) -> String {
        self.vhost.url(self.broker.node(0).port())
    }

    pub fn queue(counter: &str) -> String {
        format!("headcount.items.0.{counter}")
    }

    /// Takes a counter's disk away, and the counter with it.
    pub fn destroy_disk(&mut self, name: &str) {
        let member = self.counter(name);
        if member.process.runs() {
            member.process.kill();
        }
        std::fs::remove_dir_all(&member.data_dir).expect("removed");
    }

    /// Copies a folder of a counter that is stopped, as a backup does; puts it in another's place,
    /// as a restore does.
    pub fn copy_folder(from: &Path, to: &Path) {
        let _ = std::fs::remove_dir_all(to);
        let copied = Command::new("cp").arg("-a").args([from, to]).status();
        assert!(copied.expect("cp runs").success());
    }

    /// Signs what the first coordinator says is lost.
    pub fn accept_loss(&mut self) {
        self.accept_loss_at(0);
    }

    /// Signs what a coordinator says is lost.
    pub fn accept_loss_at(&mut self, number: usize) -> Ran {
        let url = self.coordinator(number).process.url();
        let secret = self.secret();
        self.operate(&[
            "accept-loss",
            "--url",
            &url,
            "--cluster-secret-file",
            &secret,
            "--yes",
        ])
    }

    /// Runs a command of the program, which must succeed.
    #[track_caller]
    pub fn operate(&self, args: &[&str]) -> Ran {
        let ran = run(args);
        assert!(
            ran.status.success(),
            "{args:?} ended with {}\n{}{}",
            ran.status,
            ran.stdout,
            ran.stderr
        );
        ran
    }

    /// Stops everything as an operator would; every counter's folder then has `items` of `tenants`,
    /// by a recount.
    pub fn stop_and_verify(&mut self, tenants: usize, items: u64) {
        for member in &mut self.coordinators {
            if member.process.runs() {
                assert_eq!(member.process.terminate().code(), Some(0), "a clean stop");
            }
        }
        for (name, member) in &mut self.counters {
            if !member.process.runs() {
                continue;
            }
            assert_eq!(
                member.process.terminate().code(),
                Some(0),
                "{name}: a clean stop"
            );
            let data_dir = member.data_dir.display().to_string();
            let verified = run(&["verify", "--data-dir", &data_dir]);
            assert_eq!(
                verified.stdout,
                format!("{tenants} tenants, {items} items: all counts agree\n"),
                "{name}: {}",
                verified.stderr
            );
        }
        self.assert_no_password();
    }

    /// A password in a log would be in every copy of it for ever.
    #[track_caller]
    pub fn assert_no_password(&self) {
        for member in self.coordinators.iter().chain(self.counters.values()) {
            let log = member.process.log();
            let line = log.lines().find(|line| line.contains(PASSWORD));
            assert!(line.is_none(), "the broker's password is logged: {line:?}");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for member in self.coordinators.iter().chain(self.counters.values()) {
            eprintln!("{}", member.process.log_tail());
        }
        for node in self.broker.nodes() {
            eprintln!("{}", node.log());
        }
    }
}
