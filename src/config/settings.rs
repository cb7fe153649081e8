//! The declarations of all settings, and the flags generated from them.
//!
//! Invariant: a setting is declared only here. README.md has the same table; a test compares them.

use clap::{Arg, ArgAction};

/// A command that runs a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The whole service in one process.
    Serve,
    /// A coordinator of a cluster.
    Coordinator,
    /// A counter of a cluster: one replica.
    Counter,
}

impl Role {
    /// The command's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Coordinator => "coordinator",
            Self::Counter => "counter",
        }
    }
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Name of the flag without the dashes; in the settings file, `_` replaces `-`.
    pub key: &'static str,
    /// Placeholder for the value in the help.
    pub value: &'static str,
    /// Default; empty if there is none.
    pub default: &'static str,
    /// The commands that have this setting.
    pub roles: &'static [Role],
    /// Help text.
    pub help: &'static str,
}

const fn setting(
    key: &'static str,
    value: &'static str,
    default: &'static str,
    roles: &'static [Role],
    help: &'static str,
) -> Setting {
    Setting {
        key,
        value,
        default,
        roles,
        help,
    }
}

const ALL: &[Role] = &[Role::Serve, Role::Coordinator, Role::Counter];
const FACE: &[Role] = &[Role::Serve, Role::Coordinator];
const STORE: &[Role] = &[Role::Serve, Role::Counter];
const CLUSTER: &[Role] = &[Role::Coordinator, Role::Counter];
const COORDINATOR: &[Role] = &[Role::Coordinator];
const COUNTER: &[Role] = &[Role::Counter];

/// All settings.
pub const SETTINGS: [Setting; 37] = [
    setting(
        "listen",
        "ADDRESS",
        "127.0.0.1:3000",
        ALL,
        "Address to listen on: host:port, or unix:/path; port 0 picks a free port",
    ),
    setting(
        "data-dir",
        "DIRECTORY",
        "./headcount-data",
        STORE,
        "Data directory; created if missing",
    ),
    setting(
        "memory-mb",
        "MIB",
        "128",
        STORE,
        "Memory in MiB: at most half for memtables of recent items, the rest for filters of \
         sorted runs",
    ),
    setting(
        "name",
        "NAME",
        "",
        COUNTER,
        "Unique counter name; must not change, because it names the queue",
    ),
    setting(
        "counters",
        "NAMES",
        "",
        COORDINATOR,
        "Names of the counters that must receive every item, separated by commas; others may join",
    ),
    setting(
        "amqp-url",
        "URL",
        "",
        CLUSTER,
        "RabbitMQ URL, such as amqp://user:password@host:5672/vhost or amqps://…; separate \
         several hosts by commas",
    ),
    setting(
        "amqp-url-file",
        "FILE",
        "",
        CLUSTER,
        "File with that URL, to keep the password out of the command line; of the two settings, \
         the one from the higher source applies",
    ),
    setting(
        "amqp-ca-file",
        "FILE",
        "",
        CLUSTER,
        "PEM file with certificate authorities to trust for amqps:// and the management API, in \
         addition to the system's",
    ),
    setting(
        "management-url",
        "URL",
        "",
        COORDINATOR,
        "URL of RabbitMQ's management API, such as http://user:password@host:15672, queried for \
         the placement of queues; separate several hosts by commas",
    ),
    setting(
        "management-url-file",
        "FILE",
        "",
        COORDINATOR,
        "File with that URL, to keep the password out of the command line; of the two settings, \
         the one from the higher source applies",
    ),
    setting(
        "prefix",
        "PREFIX",
        "headcount",
        CLUSTER,
        "Name prefix of all exchanges and queues; clusters that share a virtual host need \
         different prefixes, and all nodes of a cluster the same one",
    ),
    setting(
        "cluster-id",
        "ID",
        "",
        CLUSTER,
        "Cluster id, the same on all nodes; a node that meets another id under its prefix stops",
    ),
    setting(
        "cluster-secret-file",
        "FILE",
        "",
        CLUSTER,
        "File with the secret by which nodes authenticate each other, at least 16 characters; \
         without it nodes listen on loopback only",
    ),
    setting(
        "advertise-url",
        "URL",
        "",
        CLUSTER,
        "URL at which other nodes reach this one; the default is the listen address",
    ),
    setting(
        "adopt",
        "BOOL",
        "false",
        COUNTER,
        "Use this data directory as the cluster's history (from serve, or from before a broker \
         replacement)",
    ),
    setting(
        "queue-type",
        "TYPE",
        "quorum",
        CLUSTER,
        "Queue type: quorum, or classic on a single-node broker",
    ),
    setting(
        "items-max",
        "N",
        "100000",
        FACE,
        "Maximum number of items in a request",
    ),
    setting(
        "body-bytes-max",
        "BYTES",
        "8388608",
        FACE,
        "Maximum size of a request body in bytes, at most 12 MiB",
    ),
    setting(
        "bodies-bytes-max",
        "BYTES",
        "268435456",
        FACE,
        "Maximum total size in bytes of all request bodies being received",
    ),
    setting(
        "body-timeout-ms",
        "MS",
        "30000",
        FACE,
        "Timeout for receiving a request body",
    ),
    setting(
        "accept-timeout-ms",
        "MS",
        "10000",
        FACE,
        "Timeout for a post to become durable, after which its client gets 503; at most 30000",
    ),
    setting(
        "waiting-bytes-max",
        "BYTES",
        "67108864",
        FACE,
        "Maximum total size in bytes of posts that wait to become durable; further posts get 503",
    ),
    setting(
        "waiting-posts-max",
        "N",
        "16384",
        FACE,
        "Maximum number of posts that wait to become durable; further posts get 503",
    ),
    setting(
        "batch-bytes-max",
        "BYTES",
        "1048576",
        FACE,
        "Batch size in bytes at which the batch is closed",
    ),
    setting(
        "confirm-timeout-ms",
        "MS",
        "5000",
        CLUSTER,
        "Timeout for a publisher confirm, after which the batch is published again on a new \
         connection",
    ),
    setting(
        "heartbeat-s",
        "SECONDS",
        "5",
        CLUSTER,
        "Heartbeat interval of connections to RabbitMQ; a connection is closed after two missed \
         heartbeats",
    ),
    setting(
        "prefetch",
        "N",
        "64",
        COUNTER,
        "Maximum number of batches delivered to a counter and not yet committed",
    ),
    setting(
        "queue-messages-max",
        "N",
        "1000000",
        COORDINATOR,
        "Queue length of a counter, in batches, above which posts get 503 until the counter has \
         caught up",
    ),
    setting(
        "connections-max",
        "N",
        "4096",
        ALL,
        "Maximum number of open connections; 16 more are reserved for /healthz, /readyz and \
         /metrics",
    ),
    setting(
        "probe-listen",
        "ADDRESS",
        "",
        ALL,
        "Additional address that answers only /healthz, /readyz and /metrics",
    ),
    setting(
        "cors-origins",
        "ORIGIN,…",
        "",
        FACE,
        "Other origins whose pages may send requests, such as https://app.example; * allows any",
    ),
    setting(
        "hosts",
        "NAME,…",
        "",
        FACE,
        "Host names allowed for a service that listens on loopback only; * allows any",
    ),
    setting(
        "idle-timeout-ms",
        "MS",
        "75000",
        ALL,
        "Timeout for idle connections, reading headers and writing responses",
    ),
    setting(
        "shutdown-delay-ms",
        "MS",
        "0",
        ALL,
        "Delay between the signal to stop, when /readyz becomes 503, and closing the listener",
    ),
    setting(
        "drain-timeout-ms",
        "MS",
        "5000",
        ALL,
        "Timeout for requests in flight at shutdown",
    ),
    setting(
        "log",
        "FILTER",
        "info",
        ALL,
        "Log level: off, error, warn, info, debug or trace; more levels for single crates, as in \
         info,headcount_http=debug",
    ),
    setting(
        "log-format",
        "FORMAT",
        "auto",
        ALL,
        "Log format: auto (text on a terminal, else json), text or json",
    ),
];

/// The flags of a command's settings, with their environment variables.
pub fn args(role: Role) -> impl Iterator<Item = Arg> {
    let known = SETTINGS
        .iter()
        .filter(move |setting| setting.roles.contains(&role));
    known.map(|setting| {
        let arg = Arg::new(setting.key)
            .long(setting.key)
            .env(environment_name(setting.key))
            .value_name(setting.value)
            .help(match setting.default {
                "" => setting.help.to_owned(),
                default => format!("{} [default: {default}]", setting.help),
            })
            .allow_hyphen_values(true);
        match (setting.key, setting.value) {
            (key, _) if super::values::is_secret(key) => {
                arg.hide_env_values(true).action(ArgAction::Append)
            }
            (_, "BOOL") => arg.num_args(0..=1).default_missing_value("true"),
            _ => arg,
        }
    })
}

/// The environment variable of a setting.
#[must_use]
pub fn environment_name(key: &str) -> String {
    format!("HEADCOUNT_{}", key.to_uppercase().replace('-', "_"))
}
