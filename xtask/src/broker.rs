//! A private RabbitMQ node: its directories, and the commands that start and query it.
//!
//! Invariant: everything that it writes is below one directory, and it listens only on loopback, on
//! free ports. The node of the machine is never touched.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory of the programs in Debian's package. Those on the PATH are wrappers that change
/// the user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// Name of the node. Its data directory belongs to this name, so the name is constant. The port
/// mapper is private too, so the name can't collide with another node.
const NODE: &str = "headcount@localhost";

/// Log settings: everything goes to a log file, warnings also to standard output.
const LOG_SETTINGS: &str =
    "log.file = broker.log\nlog.console = true\nlog.console.level = warning\n";

/// A configured node, whether it runs or not.
#[derive(Debug)]
pub struct Broker {
    folder: PathBuf,
    logs: PathBuf,
    amqp_port: u16,
    dist_port: u16,
    epmd_port: u16,
}

impl Broker {
    /// Prepares `folder` for a node on free ports. `settings` is a file in RabbitMQ's format.
    ///
    /// # Errors
    /// RabbitMQ is not installed, a node still runs on the directory, or files can't be written.
    pub fn prepare(folder: &Path, logs: &Path, settings: &Path) -> Result<Self, String> {
        if !Path::new(PROGRAMS).join("rabbitmq-server").exists() {
            return Err("RabbitMQ is missing: apt-get install rabbitmq-server".to_owned());
        }
        let [amqp_port, dist_port, epmd_port] =
            free_ports().map_err(|why| format!("can't find free ports: {why}"))?;
        let broker = Self {
            folder: folder.to_owned(),
            logs: logs.to_owned(),
            amqp_port,
            dist_port,
            epmd_port,
        };
        if let Some(pid) = broker.pid().filter(|&pid| broker.owns(pid)) {
            return Err(format!(
                "the broker of an earlier run is still running; stop process {pid} first"
            ));
        }
        // A PID file of an earlier incarnation would be mistaken for the new node's.
        let _ = fs::remove_file(broker.pid_file());
        broker
            .write(settings)
            .map_err(|why| format!("can't prepare {}: {why}", folder.display()))?;
        Ok(broker)
    }

    /// The AMQP port.
    pub fn amqp_port(&self) -> u16 {
        self.amqp_port
    }

    /// Runs the port mapper in the foreground, so that it ends with this process instead of staying
    /// as a daemon.
    pub fn epmd(&self) -> Command {
        let mut command = Command::new("epmd");
        command.args(["-address", "127.0.0.1", "-port"]);
        command.arg(self.epmd_port.to_string());
        command
    }

    /// Runs the node. The start script is a parent of the node and ends when the process
    /// [`Self::pid`] ends.
    pub fn server(&self) -> Command {
        let mut command = self.command("rabbitmq-server");
        command
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.amqp_port.to_string())
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", self.folder.join("data"))
            .env("RABBITMQ_LOG_BASE", &self.logs)
            .env("RABBITMQ_PID_FILE", self.pid_file())
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.folder.join("plugins"))
            .env("RABBITMQ_CONFIG_FILE", self.folder.join("rabbitmq.conf"))
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}",
            );
        command
    }

    /// Waits until the node has started, at most `limit_s` seconds.
    pub fn await_startup(&self, limit_s: u64) -> Command {
        let mut command = self.command("rabbitmqctl");
        // Not `await_startup`, which fails immediately if the node can't be reached yet.
        command
            .args(["--quiet", "--node", NODE, "--timeout"])
            .arg(limit_s.to_string())
            .arg("wait")
            .arg(self.pid_file());
        command
    }

    /// The process id of the node, if it has written it.
    pub fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.pid_file())
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Whether `pid` is a node on this directory. The operating system may have reused the id for
    /// another process.
    pub fn owns(&self, pid: u32) -> bool {
        let folder = self.folder.display().to_string();
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environ| String::from_utf8_lossy(&environ).contains(&folder))
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("rabbitmq.pid")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(Path::new(PROGRAMS).join(program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RABBITMQ_") {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", &self.folder)
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", NODE)
            // The settings of the machine apply only to the machine's node.
            .env("RABBITMQ_CONF_ENV_FILE", self.folder.join("none"))
            .current_dir(&self.folder);
        command
    }

    fn write(&self, settings: &Path) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        fs::create_dir_all(&self.logs)?;
        fs::write(self.folder.join("plugins"), "[].\n")?;
        let settings = fs::read_to_string(settings)?;
        fs::write(
            self.folder.join("rabbitmq.conf"),
            format!("{settings}\n{LOG_SETTINGS}"),
        )?;
        let cookie = self.folder.join(".erlang.cookie");
        if !cookie.exists() {
            let mut random = [0; 16];
            io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut random)?;
            let text: String = random.iter().map(|byte| format!("{byte:02X}")).collect();
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&cookie)?;
            io::Write::write_all(&mut file, text.as_bytes())?;
        }
        // Erlang refuses a cookie file that others can read.
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))
    }
}

/// Distinct free ports of the loopback interface.
///
/// # Errors
/// No port is free.
pub fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    let mut listeners = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        // Kept open until all are found, so that no port is returned twice.
        listeners.push(listener);
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn free_ports_differ() {
        let ports: [u16; 20] = free_ports().expect("ports");
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 20);
    }
}
