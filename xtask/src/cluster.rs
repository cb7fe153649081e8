//! `cargo xtask cluster`: the cluster of `docker-compose.yml` as plain processes, for who has no containers.
//!
//! Invariant: the nodes get the settings of the compose file, and nothing that was started outlives the command.

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::broker::{Broker, free_ports};
use crate::members::Member;
use crate::process;
use crate::server::status_of;
use crate::workspace::Workspace;

/// The counters, as in the compose file.
const COUNTERS: [&str; 3] = ["c1", "c2", "c3"];

/// Makes the secrets, as in the compose file.
const MAKE_SECRETS: &str = "deploy/make-secrets.sh";

/// The longest build.
const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);

/// The longest start of the broker, in seconds.
const BROKER_START_S_MAX: u64 = 120;

/// The longest wait for the coordinator to be ready.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// How often the processes are looked at.
const POLL: Duration = Duration::from_millis(100);

/// What was asked for on the command line.
#[derive(Debug)]
pub struct Options {
    /// Where the coordinator listens.
    pub listen: SocketAddr,
    /// Whether to start empty, and to leave nothing but logs.
    pub ephemeral: bool,
    /// The program to run; none builds it.
    pub program: Option<PathBuf>,
}

/// Runs the cluster until it is told to stop.
///
/// # Errors
/// When something is missing, doesn't start, or another cluster runs in this checkout.
pub fn run(workspace: &Workspace, options: &Options) -> Result<(), String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|why| format!("can't wait for signals: {why}"))?;
    }
    let program = match &options.program {
        // The nodes run in folders of their own.
        Some(program) => fs::canonicalize(program)
            .map_err(|why| format!("can't find {}: {why}", program.display()))?,
        None => build(workspace)?,
    };
    let folders = Folders::new(workspace, options.ephemeral);
    let _lock = folders.lock()?;
    folders.make()?;
    let mut members = Vec::new();
    let outcome = start(workspace, options, &folders, program, &mut members, &stop)
        .and_then(|()| supervise(&mut members, &stop));
    println!("stopping");
    // The other way round: who sends stops before who receives.
    for member in members.iter_mut().rev() {
        member.stop();
    }
    if options.ephemeral {
        folders.clear()?;
    }
    println!("stopped; the logs are in {}", folders.logs.display());
    outcome
}

fn build(workspace: &Workspace) -> Result<PathBuf, String> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--locked", "--release", "--bin", "headcount"])
        .current_dir(workspace.root());
    process::run(&mut cargo, BUILD_LIMIT)?;
    Ok(workspace.release_binary("headcount"))
}

/// Starts everything in order and waits until the coordinator is ready.
fn start(
    workspace: &Workspace,
    options: &Options,
    folders: &Folders,
    program: PathBuf,
    members: &mut Vec<Member>,
    stop: &AtomicBool,
) -> Result<(), String> {
    folders.make_secrets(workspace)?;
    let settings = folders.data.join("broker-settings/rabbitmq.conf");
    let broker = Broker::prepare(&folders.data.join("rabbitmq"), &folders.logs, &settings)?;
    folders.set_broker_port(broker.amqp_port())?;
    let mut add = |member: Member| -> Result<(), String> {
        members.push(member);
        members.last_mut().map_or(Ok(()), |member| member.start())
    };
    let broker = Arc::new(broker);
    let (of_epmd, of_server) = (Arc::clone(&broker), Arc::clone(&broker));
    add(Member::new("epmd", &folders.logs, move || of_epmd.epmd()))?;
    let ender = Arc::clone(&broker);
    let server = Member::new("rabbitmq", &folders.logs, move || of_server.server());
    add(server.ended_by(move || ender.pid().filter(|&pid| ender.owns(pid))))?;
    process::run(
        &mut broker.await_startup(BROKER_START_S_MAX),
        Duration::from_secs(BROKER_START_S_MAX + 10),
    )?;
    if stop.load(Ordering::Relaxed) {
        return Ok(());
    }
    let ports: [u16; COUNTERS.len()] =
        free_ports().map_err(|why| format!("can't find free ports: {why}"))?;
    for (name, port) in COUNTERS.into_iter().zip(ports) {
        let settings = counter_settings(folders, name, port);
        add(node(&program, "counter", name, folders, settings))?;
    }
    let settings = coordinator_settings(folders, options.listen);
    add(node(
        &program,
        "coordinator",
        "coordinator",
        folders,
        settings,
    ))?;
    wait_until_ready(members, options.listen, stop)?;
    if !stop.load(Ordering::Relaxed) {
        println!("{}", greeting(options.listen));
    }
    Ok(())
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

fn coordinator_settings(folders: &Folders, listen: SocketAddr) -> Settings {
    let mut settings = shared_settings(folders, listen);
    settings.push(("HEADCOUNT_COUNTERS", COUNTERS.join(",")));
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

/// Starts again what ends, as the compose file's restart policy does, until told to stop.
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
         curl -X POST http://{host}/items -H 'Content-Type: application/json' -d '{{\"id\":\"5\",\"tenant\":\"asd\"}}'\n  \
         curl -X GET http://{host}/items/asd/count -H 'Content-Type: application/json' -d '{{\"id\":\"2\",\"tenant\":\"asd\"}}'\n\n\
         Ctrl-C stops everything.\n",
        COUNTERS.join(", ")
    )
}

/// Where the cluster keeps its things.
#[derive(Debug)]
struct Folders {
    base: PathBuf,
    data: PathBuf,
    logs: PathBuf,
    fresh: bool,
}

impl Folders {
    fn new(workspace: &Workspace, ephemeral: bool) -> Self {
        let base = workspace.cluster();
        Self {
            data: base.join(if ephemeral { "ephemeral" } else { "data" }),
            logs: base.join("logs"),
            base,
            fresh: ephemeral,
        }
    }

    /// Keeps a second cluster away for as long as the file is open.
    fn lock(&self) -> Result<File, String> {
        let path = self.base.join("lock");
        let fault = |why: io::Error| format!("can't lock {}: {why}", path.display());
        fs::create_dir_all(&self.base).map_err(fault)?;
        let file = File::create(&path).map_err(fault)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                Err("a cluster of this checkout is running already".to_owned())
            }
            Err(TryLockError::Error(why)) => Err(fault(why)),
        }
    }

    fn make(&self) -> Result<(), String> {
        if self.fresh {
            self.clear()?;
        }
        for folder in ["secrets", "broker-settings"].map(|name| self.data.join(name)) {
            make(&folder)?;
        }
        make(&self.logs)
    }

    fn clear(&self) -> Result<(), String> {
        match fs::remove_dir_all(&self.data) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => {
                Err(format!("can't remove {}: {why}", self.data.display()))
            }
            _ => Ok(()),
        }
    }

    fn make_secrets(&self, workspace: &Workspace) -> Result<(), String> {
        let mut command = Command::new("sh");
        command
            .arg(workspace.root().join(MAKE_SECRETS))
            .arg(self.data.join("secrets"))
            .arg(self.data.join("broker-settings"))
            // The port comes later: it is another in each run.
            .arg("127.0.0.1:5672");
        process::run(&mut command, Duration::from_secs(10))
    }

    fn set_broker_port(&self, port: u16) -> Result<(), String> {
        let path = self.data.join("secrets/amqp-url");
        let fault = |why: io::Error| format!("can't change {}: {why}", path.display());
        let url = fs::read_to_string(&path).map_err(fault)?;
        let (user, _) = url
            .rsplit_once('@')
            .ok_or_else(|| format!("{} is not the URL of a broker", path.display()))?;
        fs::remove_file(&path).map_err(fault)?;
        fs::write(&path, format!("{user}@127.0.0.1:{port}/%2f\n")).map_err(fault)
    }
}

fn make(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|why| format!("can't make {}: {why}", folder.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const COMPOSE: &str = include_str!("../../docker-compose.yml");

    #[test]
    fn the_nodes_get_the_settings_of_the_compose_file() {
        let workspace = Workspace::find().expect("built here");
        let folders = Folders::new(&workspace, false);
        let listen = SocketAddr::from(([127, 0, 0, 1], 3000));
        let ours: BTreeSet<&str> = coordinator_settings(&folders, listen)
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
        assert!(COMPOSE.contains(&format!("HEADCOUNT_COUNTERS: {}\n", COUNTERS.join(","))));
        for name in COUNTERS {
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
