//! The declarations of all settings, and the flags made of them.
//!
//! Invariant: a setting is declared here and nowhere else; README.md shows the same table, which a
//! test checks.

use clap::{Arg, ArgAction};

/// A command that runs a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything in one process.
    Serve,
    /// The HTTP face of a cluster.
    Coordinator,
    /// A replica of a cluster.
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
    /// Its flag without the dashes, and its key in the file with `_` for `-`.
    pub key: &'static str,
    /// What its value stands for.
    pub value: &'static str,
    /// Its value when nothing else is given; empty for none.
    pub default: &'static str,
    /// The commands that know it.
    pub roles: &'static [Role],
    /// What it does.
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

/// Every setting.
pub const SETTINGS: [Setting; 37] = [
    setting(
        "listen",
        "ADDRESS",
        "127.0.0.1:3000",
        ALL,
        "Address and port to listen on, or unix:/path of a socket; port 0 takes a free one",
    ),
    setting(
        "data-dir",
        "FOLDER",
        "./headcount-data",
        STORE,
        "Where everything is kept; made if missing",
    ),
    setting(
        "memory-mb",
        "MIB",
        "128",
        STORE,
        "Memory in MiB: at most half for recent items before they are sorted into files, the rest for the files' filters",
    ),
    setting(
        "name",
        "NAME",
        "",
        COUNTER,
        "The counter's name, the same at every start: its queue has it",
    ),
    setting(
        "counters",
        "NAMES",
        "",
        COORDINATOR,
        "The counters that must get every item, by name, with commas between; others may join",
    ),
    setting(
        "amqp-url",
        "URL",
        "",
        CLUSTER,
        "RabbitMQ's address, such as amqp://user:password@host:5672/vhost, or amqps://…; several hosts with commas between",
    ),
    setting(
        "amqp-url-file",
        "FILE",
        "",
        CLUSTER,
        "A file with that address, for passwords; of the two, the one from the higher source counts",
    ),
    setting(
        "amqp-ca-file",
        "FILE",
        "",
        CLUSTER,
        "Certificates in PEM to trust at amqps:// and at the management API beside the system's, such as that of an authority of your own",
    ),
    setting(
        "management-url",
        "URL",
        "",
        COORDINATOR,
        "RabbitMQ's management API, such as http://user:password@host:15672, asked for where queues are kept; several hosts with commas between",
    ),
    setting(
        "management-url-file",
        "FILE",
        "",
        COORDINATOR,
        "A file with that address, for passwords; of the two, the one from the higher source counts",
    ),
    setting(
        "prefix",
        "PREFIX",
        "headcount",
        CLUSTER,
        "How the names of everything on the broker begin: clusters that share a virtual host need one each, the same for all of its nodes",
    ),
    setting(
        "cluster-id",
        "ID",
        "",
        CLUSTER,
        "The cluster's id, the same for all of its nodes: a node that meets one of another id under its prefix refuses to go on",
    ),
    setting(
        "cluster-secret-file",
        "FILE",
        "",
        CLUSTER,
        "A file with the secret that nodes show each other, at least 16 characters; without it nodes listen on loopback only",
    ),
    setting(
        "advertise-url",
        "URL",
        "",
        CLUSTER,
        "Where other nodes reach this one; by default the address it listens on",
    ),
    setting(
        "adopt",
        "BOOL",
        "false",
        COUNTER,
        "true takes a folder of serve, or one from before the broker was replaced, as the history of the whole cluster",
    ),
    setting(
        "queue-type",
        "TYPE",
        "quorum",
        CLUSTER,
        "quorum, or classic on a broker of one node",
    ),
    setting("items-max", "N", "100000", FACE, "Items in one request"),
    setting(
        "body-bytes-max",
        "BYTES",
        "8388608",
        FACE,
        "Bytes of one request's body, at most 12 MiB",
    ),
    setting(
        "bodies-bytes-max",
        "BYTES",
        "268435456",
        FACE,
        "Bytes of all bodies being received at once",
    ),
    setting(
        "body-timeout-ms",
        "MS",
        "30000",
        FACE,
        "Time for one body to arrive",
    ),
    setting(
        "accept-timeout-ms",
        "MS",
        "10000",
        FACE,
        "Time for a post to become durable, before its client gets 503; at most 30000",
    ),
    setting(
        "waiting-bytes-max",
        "BYTES",
        "67108864",
        FACE,
        "Bytes of all posts that wait to become durable; more get 503",
    ),
    setting(
        "waiting-posts-max",
        "N",
        "16384",
        FACE,
        "Posts that wait to become durable; more get 503",
    ),
    setting(
        "batch-bytes-max",
        "BYTES",
        "1048576",
        FACE,
        "Bytes after which a batch takes no further post",
    ),
    setting(
        "confirm-timeout-ms",
        "MS",
        "5000",
        CLUSTER,
        "Time for RabbitMQ to confirm a batch, before it is published again on another connection",
    ),
    setting(
        "heartbeat-s",
        "SECONDS",
        "5",
        CLUSTER,
        "How often each side of a connection to RabbitMQ proves that it lives; it is given up after two of them",
    ),
    setting(
        "prefetch",
        "N",
        "64",
        COUNTER,
        "Batches that may be under way to a counter, not yet committed",
    ),
    setting(
        "queue-messages-max",
        "N",
        "1000000",
        COORDINATOR,
        "Batches in a counter's queue after which posts get 503 until it has caught up",
    ),
    setting(
        "connections-max",
        "N",
        "4096",
        ALL,
        "Connections open at once, beside 16 for /healthz, /readyz and /metrics",
    ),
    setting(
        "probe-listen",
        "ADDRESS",
        "",
        ALL,
        "Where /healthz, /readyz and /metrics, and nothing else, are answered as well",
    ),
    setting(
        "cors-origins",
        "ORIGIN,…",
        "",
        FACE,
        "Other origins whose pages may ask, such as https://app.example; * is any",
    ),
    setting(
        "hosts",
        "NAME,…",
        "",
        FACE,
        "Names that may lead to a service that listens on loopback only; * is any",
    ),
    setting(
        "idle-timeout-ms",
        "MS",
        "75000",
        ALL,
        "Time a connection may be idle, take over a request's head, or leave an answer untaken",
    ),
    setting(
        "shutdown-delay-ms",
        "MS",
        "0",
        ALL,
        "Time from being told to stop, when /readyz turns 503, until no more connections are taken",
    ),
    setting(
        "drain-timeout-ms",
        "MS",
        "5000",
        ALL,
        "Time for running requests to finish when the process is told to stop",
    ),
    setting(
        "log",
        "FILTER",
        "info",
        ALL,
        "What is logged: off, error, warn, info, debug or trace; of modules beside that, as info,headcount::http=debug",
    ),
    setting(
        "log-format",
        "FORMAT",
        "auto",
        ALL,
        "auto (text on a terminal, else JSON), text or json",
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
