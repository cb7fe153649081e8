//! `headcount-bench postgres`: PostgreSQL, which syncs every commit before it answers.
//!
//! Invariant: at the end of a run every item is in one row, and the count of every tenant equals
//! the number of its rows.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Args;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use super::{Daemon, POLL, START_LIMIT, batches, free_port, make_empty, output, remove};
use crate::error::BenchError;

/// Directory of the programs in Debian, by version.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// The user that runs the server if this process runs as root, which PostgreSQL refuses.
const USER: &str = "postgres";

/// Durable, with enough room that no checkpoint happens during a run.
const SETTINGS: &str = "\
fsync = on
synchronous_commit = on
full_page_writes = on
shared_buffers = 1GB
wal_buffers = 64MB
max_wal_size = 8GB
checkpoint_timeout = 30min
max_connections = 300
jit = off
listen_addresses = '127.0.0.1'
";

const SCHEMA: &str = include_str!("../../peers/schema.sql");
const ONE: &str = include_str!("../../peers/one.sql");
const CHECK: &str = include_str!("../../peers/check.sql");

/// What to send.
#[derive(Debug, Args)]
pub struct Options {
    /// Directory for its files; emptied first, removed at the end
    #[arg(long)]
    dir: PathBuf,
    /// Number of connections
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Items per request: 1 is sent by pgbench, more by this program
    #[arg(long, default_value_t = 1)]
    pub batch: usize,
    /// Number of tenants
    #[arg(long, default_value_t = 1000)]
    pub tenants: u64,
    /// Duration of the measurement in seconds
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Duration of the warm-up in seconds
    #[arg(long, default_value_t = 1)]
    pub warmup_s: u64,
}

/// A server and its location.
pub struct Server {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    /// The user and group that it runs as, if different from this process.
    user: Option<(u32, u32)>,
}

/// Starts PostgreSQL, puts load on it, checks it and stops it.
///
/// # Errors
/// It fails, or its counts are wrong.
pub fn run(options: &Options) -> Result<(), BenchError> {
    make_empty(&options.dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|why| BenchError::io("start the runtime", why))?;
    let server = Server::make(&options.dir)?;
    let mut daemon = server.start()?;
    let result = runtime.block_on(async {
        let client = server.wait_until_ready(&mut daemon).await?;
        client.batch_execute(SCHEMA).await?;
        let result = if options.batch == 1 {
            server.pgbench(options)?
        } else {
            batches::run(&server, options).await?
        };
        check(&client, &result).await?;
        Ok::<Value, BenchError>(result)
    })?;
    drop(daemon);
    remove(&options.dir)?;
    crate::print(&result)
}

async fn check(client: &Client, result: &Value) -> Result<(), BenchError> {
    let row = client.query_one(CHECK, &[]).await?;
    let (items, counted, wrong): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    let sent = result.get("distinct").and_then(Value::as_i64);
    if wrong > 0 || items != counted || sent.is_some_and(|sent| sent != items) {
        let detail =
            format!("{items} rows, {counted} counted, {wrong} tenants wrong, {sent:?} sent");
        return Err(BenchError::WrongCount(detail));
    }
    Ok(())
}

impl Server {
    fn make(dir: &Path) -> Result<Self, BenchError> {
        let folder = dir
            .canonicalize()
            .map_err(|why| BenchError::io(format!("find {}", dir.display()), why))?;
        let server = Self {
            programs: programs()?,
            folder,
            port: free_port()?,
            user: if rustix::process::geteuid().is_root() {
                Some(user()?)
            } else {
                None
            },
        };
        if let Some((user, group)) = server.user {
            chown(&server.folder, Some(user), Some(group))
                .map_err(|why| BenchError::io("give PostgreSQL its folder", why))?;
        }
        let data = server.data();
        output(
            "initdb",
            server
                .command("initdb")
                .args(["--auth=trust", "--username=postgres", "--encoding=UTF8"])
                .args(["--no-locale", "--no-instructions", "-D"])
                .arg(&data),
        )?;
        let settings = format!(
            "{SETTINGS}port = {}\nunix_socket_directories = '{}'\n",
            server.port,
            server.folder.display()
        );
        let path = data.join("postgresql.auto.conf");
        fs::write(&path, settings)
            .map_err(|why| BenchError::io(format!("write {}", path.display()), why))?;
        Ok(server)
    }

    fn start(&self) -> Result<Daemon, BenchError> {
        let log = self.folder.join("postgres.log");
        let log = File::create(&log).map_err(|why| BenchError::io("make its log", why))?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).stderr(log);
        // A fast shutdown, which ends the sessions.
        Daemon::start("postgres", &mut command, Signal::INT)
    }

    async fn wait_until_ready(&self, daemon: &mut Daemon) -> Result<Client, BenchError> {
        let started = Instant::now();
        loop {
            match self.connect().await {
                Ok(client) => return Ok(client),
                Err(why) if daemon.has_ended() || started.elapsed() > START_LIMIT => {
                    return Err(why);
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// A connection, driven by a separate task.
    pub async fn connect(&self) -> Result<Client, BenchError> {
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(&self.folder)
            .port(self.port)
            .user("postgres")
            .dbname("postgres")
            .connect(NoTls)
            .await?;
        // The client notices when the connection ends.
        tokio::spawn(connection);
        Ok(client)
    }

    fn pgbench(&self, options: &Options) -> Result<Value, BenchError> {
        let script = self.folder.join("one.sql");
        fs::write(&script, ONE).map_err(|why| BenchError::io("write the script", why))?;
        let send = |seconds: u64| {
            let mut command = self.command("pgbench");
            command
                .args(["--no-vacuum", "--protocol=prepared", "--jobs=1"])
                .arg(format!("--client={}", options.connections))
                .arg(format!("--time={seconds}"))
                .arg(format!("--define=tenants={}", options.tenants))
                .args(["--username=postgres", &format!("--port={}", self.port)])
                .arg("--host")
                .arg(&self.folder)
                .arg("--file")
                .arg(&script)
                .arg("postgres");
            output("pgbench", &mut command)
        };
        if options.warmup_s > 0 {
            send(options.warmup_s)?;
        }
        parse_pgbench(&send((options.seconds.ceil() as u64).max(1))?)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.stdin(Stdio::null()).current_dir(&self.folder);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }
}

/// The programs of the newest version.
fn programs() -> Result<PathBuf, BenchError> {
    let missing = || fault("it is missing: apt-get install postgresql".to_owned());
    let versions = fs::read_dir(PROGRAMS).map_err(|_| missing())?;
    let version = |path: &PathBuf| -> u32 {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        name.and_then(|name| name.parse().ok()).unwrap_or(0)
    };
    versions
        .flatten()
        .map(|entry| entry.path())
        .max_by_key(version)
        .map(|path| path.join("bin"))
        .filter(|path| path.join("postgres").exists())
        .ok_or_else(missing)
}

/// The user id and group id of the server's user.
fn user() -> Result<(u32, u32), BenchError> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.split(':').next() == Some(USER));
    let mut fields = line.unwrap_or_default().split(':').skip(2);
    let mut number = || fields.next().and_then(|field| field.parse().ok());
    match (number(), number()) {
        (Some(user), Some(group)) => Ok((user, group)),
        _ => Err(fault(format!("there is no user {USER} to run it as"))),
    }
}

fn parse_pgbench(text: &str) -> Result<Value, BenchError> {
    let after = |key: &str| -> Option<f64> {
        let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
        let word = rest
            .trim_start_matches([' ', ':', '='])
            .split([' ', '/'])
            .next();
        word.and_then(|word| word.parse().ok())
    };
    let rate = after("tps");
    let requests = after("number of transactions actually processed");
    let (Some(rate), Some(requests)) = (rate, requests) else {
        return Err(fault(format!("pgbench printed {text}")));
    };
    let mean_us = after("latency average").map(|ms| ms * 1000.0);
    Ok(json!({
        "version": 1,
        "seconds": requests / rate,
        "requests": requests,
        "items": requests,
        "requests_per_s": rate,
        "items_per_s": rate,
        "latency_us": {"mean": mean_us},
        "checked": true,
    }))
}

fn fault(detail: String) -> BenchError {
    BenchError::Peer {
        peer: "PostgreSQL",
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_pgbench_is_read() {
        let text = "number of transactions actually processed: 1500\nlatency average = 2.500 ms\n\
                    initial connection time = 3.1 ms\ntps = 500.25 (without initial connection \
                    time)\n";
        let result = parse_pgbench(text).expect("a report");
        assert_eq!(result["requests_per_s"], 500.25);
        assert_eq!(result["latency_us"]["mean"], 2500.0);
        assert!(parse_pgbench("").is_err());
    }
}
