//! `cargo xtask cluster`: the cluster of `docker-compose.yml` as plain processes, for systems
//! without containers.
//!
//! Invariant: the nodes get the settings of the compose file, and no started process outlives the
//! command.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::broker::{Broker, free_ports};
use crate::folders::Folders;
use crate::members::Member;
use crate::process;
use crate::server::status_of;
use crate::workspace::Workspace;

/// Names of counters.
pub const COUNTERS: [&str; 8] = ["c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8"];

/// Number of counters in the compose file.
const COUNTERS_DEFAULT: usize = 3;

/// Timeout of the build.
const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Timeout of the broker's start in seconds.
const BROKER_START_S_MAX: u64 = 120;

/// Timeout for the coordinator to become ready.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// Polling interval of the processes.
const POLL: Duration = Duration::from_millis(100);

/// Options of the command line.
#[derive(Debug)]
pub struct Options {
    /// Listen address of the coordinator.
    pub listen: SocketAddr,
    /// Whether to start with empty data, and to leave only logs.
    pub ephemeral: bool,
    /// The program to run; `None` builds it.
    pub program: Option<PathBuf>,
}

/// Runs the cluster until it receives a signal to stop.
///
/// # Errors
/// Something is missing or doesn't start, or another cluster runs in this checkout.
pub fn run(workspace: &Workspace, options: &Options) -> Result<(), String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|why| format!("can't wait for signals: {why}"))?;
    }
    let program = match &options.program {
        // The nodes run in other directories, so the path must be absolute.
        Some(program) => fs::canonicalize(program)
            .map_err(|why| format!("can't find {}: {why}", program.display()))?,
        None => build(workspace)?,
    };
    let mut cluster = Cluster::prepare(workspace.cluster(), options.ephemeral, COUNTERS_DEFAULT)?;
    let outcome = cluster
        .start(workspace, options.listen, &program, &stop)
        .and_then(|()| {
            if !stop.load(Ordering::Relaxed) {
                println!("{}", greeting(options.listen));
            }
            supervise(&mut cluster.members, &stop)
        });
    cluster.stop()?;
    outcome
}

/// The processes of a cluster and their directories.
#[derive(Debug)]
pub struct Cluster {
    folders: Folders,
    counters: &'static [&'static str],
    members: Vec<Member>,
    _lock: File,
}

impl Cluster {
    /// Prepares a cluster below `base` with this number of counters, at most eight. None of it runs
    /// yet.
    ///
    /// # Errors
    /// Another cluster runs there, or directories can't be created.
    pub fn prepare(base: PathBuf, ephemeral: bool, counters: usize) -> Result<Self, String> {
        let folders = Folders::new(base, ephemeral);
        let lock = folders.lock()?;
        folders.make()?;
        Ok(Self {
            folders,
            counters: &COUNTERS[..counters.min(COUNTERS.len())],
            members: Vec::new(),
            _lock: lock,
        })
    }

    /// Starts everything in order, and waits until the coordinator is ready or the cluster must
    /// stop.
    ///
    /// # Errors
    /// Something doesn't start.
    pub fn start(
        &mut self,
        workspace: &Workspace,
        listen: SocketAddr,
        program: &Path,
        stop: &AtomicBool,
    ) -> Result<(), String> {
        let folders = &self.folders;
        start_broker(workspace, folders, &mut self.members)?;
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let ports: [u16; COUNTERS.len()] =
            free_ports().map_err(|why| format!("can't find free ports: {why}"))?;
        for (name, port) in self.counters.iter().zip(ports) {
            let settings = counter_settings(folders, name, port);
            let counter = node(program, "counter", name, folders, settings);
            start(&mut self.members, counter)?;
        }
        let settings = coordinator_settings(folders, listen, self.counters);
        let coordinator = node(program, "coordinator", "coordinator", folders, settings);
        start(&mut self.members, coordinator)?;
        wait_until_ready(&mut self.members, listen, stop)
    }

    /// Stops everything and removes ephemeral data.
    ///
    /// # Errors
    /// The data can't be removed.
    pub fn stop(&mut self) -> Result<(), String> {
        println!("stopping");
        // In reverse order: senders stop before receivers.
        for member in self.members.iter_mut().rev() {
            member.stop();
        }
        if self.folders.ephemeral {
            self.folders.clear()?;
        }
        println!("stopped; the logs are in {}", self.folders.logs.display());
        Ok(())
    }
}

/// Builds the program like the first command in the README.
fn build(workspace: &Workspace) -> Result<PathBuf, String> {
    workspace.build("release", "--bin", "headcount", BUILD_LIMIT)?;
    Ok(workspace.release_binary("headcount"))
}

fn start(members: &mut Vec<Member>, member: Member) -> Result<(), String> {
    members.push(member);
    members.last_mut().map_or(Ok(()), Member::start)
}

/// Starts the broker and waits until it is ready.
fn start_broker(
    workspace: &Workspace,
    folders: &Folders,
    members: &mut Vec<Member>,
) -> Result<(), String> {
    folders.make_secrets(workspace)?;
    let settings = folders.data.join("broker-settings/rabbitmq.conf");
    let broker = Broker::prepare(&folders.data.join("rabbitmq"), &folders.logs, &settings)?;
    folders.set_broker_port(broker.amqp_port())?;
    let broker = Arc::new(broker);
    let (of_epmd, of_server) = (Arc::clone(&broker), Arc::clone(&broker));
    let epmd = Member::new("epmd", &folders.logs, move || of_epmd.epmd());
    start(members, epmd)?;
    let ender = Arc::clone(&broker);
    let server = Member::new("rabbitmq", &folders.logs, move || of_server.server());
    let server = server.ended_by(move || ender.pid().filter(|&pid| ender.owns(pid)));
    start(members, server)?;
    process::run(
        &mut broker.await_startup(BROKER_START_S_MAX),
        Duration::from_secs(BROKER_START_S_MAX + 10),
    )
}

/// Environment variables with their values.
type Settings = Vec<(&'static str, String)>;

fn shared_settings(folders: &Folders, listen: SocketAddr) -> Settings {
    let secret = |name: &str| {
        folders
            .data
            .join("secrets")
            .join(name)
            .display()
            .to_string()
    };
    vec![
        ("HEADCOUNT_LISTEN", listen.to_string()),
        ("HEADCOUNT_AMQP_URL_FILE", secret("amqp-url")),
        ("HEADCOUNT_CLUSTER_SECRET_FILE", secret("cluster-secret")),
    ]
}

fn coordinator_settings(folders: &Folders, listen: SocketAddr, counters: &[&str]) -> Settings {
    let mut settings = shared_settings(folders, listen);
    settings.push(("HEADCOUNT_COUNTERS", counters.join(",")));
    settings
}

fn counter_settings(folders: &Folders, name: &str, port: u16) -> Settings {
    let listen = SocketAddr::from(([127, 0, 0, 1], port));
    let data_dir = folders.data.join(name).display().to_string();
    let mut settings = shared_settings(folders, listen);
    settings.push(("HEADCOUNT_NAME", name.to_owned()));
    settings.push(("HEADCOUNT_DATA_DIR", data_dir));
    settings.push(("HEADCOUNT_ADVERTISE_URL", format!("http://{listen}")));
    settings
}

fn node(
    program: &Path,
    role: &'static str,
    name: &'static str,
    folders: &Folders,
    settings: Settings,
) -> Member {
    let program = program.to_owned();
    let folder = folders.data.clone();
    Member::new(name, &folders.logs, move || {
        let mut command = Command::new(&program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HEADCOUNT_") {
                command.env_remove(name);
            }
        }
        command
            .arg(role)
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .current_dir(&folder);
        command
    })
}

fn wait_until_ready(
    members: &mut [Member],
    listen: SocketAddr,
    stop: &AtomicBool,
) -> Result<(), String> {
    let deadline = Instant::now() + READY_LIMIT;
    while status_of(listen, "/readyz") != Some(200) {
        for member in members.iter_mut() {
            if let Some(status) = member.ended()? {
                return Err(format!("{} ended with {status}", member.name()));
            }
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err("the coordinator was not ready in time".to_owned());
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Restarts processes that end, as the restart policy of the compose file does, until a signal to
/// stop.
fn supervise(members: &mut [Member], stop: &AtomicBool) -> Result<(), String> {
    while !stop.load(Ordering::Relaxed) {
        for member in members.iter_mut() {
            member.restart_if_ended()?;
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn greeting(listen: SocketAddr) -> String {
    let host = if listen.ip().is_loopback() || listen.ip().is_unspecified() {
        format!("localhost:{}", listen.port())
    } else {
        listen.to_string()
    };
    format!(
        "\nA coordinator and the counters {} are running. Try:\n\n  \
         curl -X POST http://{host}/items -H 'Content-Type: application/json' -d \
         '{{\"id\":\"5\",\"tenant\":\"asd\"}}'\n  \
         curl -X GET http://{host}/items/asd/count -H 'Content-Type: application/json' -d \
         '{{\"id\":\"2\",\"tenant\":\"asd\"}}'\n\n\
         Ctrl-C stops everything.\n",
        COUNTERS[..COUNTERS_DEFAULT].join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const COMPOSE: &str = include_str!("../../docker-compose.yml");

    #[test]
    fn the_nodes_get_the_settings_of_the_compose_file() {
        let workspace = Workspace::find().expect("built here");
        let folders = Folders::new(workspace.cluster(), false);
        let listen = SocketAddr::from(([127, 0, 0, 1], 3000));
        let ours: BTreeSet<&str> =
            coordinator_settings(&folders, listen, &COUNTERS[..COUNTERS_DEFAULT])
                .iter()
                .chain(&counter_settings(&folders, "c1", 1))
                .map(|(name, _)| *name)
                .collect();
        let theirs: BTreeSet<&str> = COMPOSE
            .lines()
            .filter_map(|line| line.trim().split_once(": "))
            .map(|(name, _)| name)
            .filter(|name| name.starts_with("HEADCOUNT_"))
            .collect();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn the_counters_are_those_of_the_compose_file() {
        let counters = &COUNTERS[..COUNTERS_DEFAULT];
        assert!(COMPOSE.contains(&format!("HEADCOUNT_COUNTERS: {}\n", counters.join(","))));
        for name in counters {
            assert!(
                COMPOSE.contains(&format!("HEADCOUNT_NAME: {name}\n")),
                "{name}"
            );
        }
    }

    #[test]
    fn the_curls_are_those_of_the_readme() {
        let readme = include_str!("../../README.md");
        let greeting = greeting(SocketAddr::from(([127, 0, 0, 1], 3000)));
        let curls: Vec<&str> = greeting
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("curl"))
            .collect();
        assert_eq!(curls.len(), 2);
        for curl in curls {
            assert!(readme.contains(curl), "{curl}");
        }
    }
}
