//! The declarations of all settings, and the flags made of them.
//!
//! Invariant: a setting is declared here and nowhere else; README.md shows the same table, which a test checks.

use clap::Arg;

/// One setting of `headcount serve`.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its flag without the dashes, and its key in the file with `_` for `-`.
    pub key: &'static str,
    /// What its value stands for.
    pub value: &'static str,
    /// Its value when nothing else is given.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

const fn setting(
    key: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        key,
        value,
        default,
        help,
    }
}

/// Every setting of `headcount serve`.
pub const SETTINGS: [Setting; 16] = [
    setting(
        "listen",
        "ADDRESS",
        "127.0.0.1:3000",
        "Address and port to listen on; port 0 takes a free one",
    ),
    setting(
        "data-dir",
        "FOLDER",
        "./headcount-data",
        "Where everything is kept; made if missing",
    ),
    setting(
        "memory-mb",
        "MIB",
        "64",
        "Memory for recent items before they are sorted into files, in MiB",
    ),
    setting("items-max", "N", "100000", "Items in one request"),
    setting(
        "body-bytes-max",
        "BYTES",
        "8388608",
        "Bytes of one request's body, at most 12 MiB",
    ),
    setting(
        "bodies-bytes-max",
        "BYTES",
        "268435456",
        "Bytes of all bodies being received at once",
    ),
    setting(
        "body-timeout-ms",
        "MS",
        "30000",
        "Time for one body to arrive",
    ),
    setting(
        "accept-timeout-ms",
        "MS",
        "10000",
        "Time for a post to become durable, before its client gets 503",
    ),
    setting(
        "waiting-bytes-max",
        "BYTES",
        "67108864",
        "Bytes of all posts that wait to become durable; more get 503",
    ),
    setting(
        "waiting-posts-max",
        "N",
        "16384",
        "Posts that wait to become durable; more get 503",
    ),
    setting(
        "batch-bytes-max",
        "BYTES",
        "1048576",
        "Bytes after which a batch takes no further post",
    ),
    setting(
        "connections-max",
        "N",
        "4096",
        "Connections open at once; more wait",
    ),
    setting(
        "idle-timeout-ms",
        "MS",
        "60000",
        "Time a connection may be idle, take over a request's head, or leave an answer untaken",
    ),
    setting(
        "drain-timeout-ms",
        "MS",
        "5000",
        "Time for running requests to finish when the process is told to stop",
    ),
    setting(
        "log",
        "FILTER",
        "info",
        "What is logged: error, warn, info, debug or trace, also by module",
    ),
    setting(
        "log-format",
        "FORMAT",
        "auto",
        "auto (text on a terminal, else JSON), text or json",
    ),
];

/// The flags of every setting, with their environment variables.
pub fn args() -> impl Iterator<Item = Arg> {
    SETTINGS.iter().map(|setting| {
        Arg::new(setting.key)
            .long(setting.key)
            .env(environment_name(setting.key))
            .value_name(setting.value)
            .help(format!("{} [default: {}]", setting.help, setting.default))
            .allow_hyphen_values(true)
    })
}

/// The environment variable of a setting.
#[must_use]
pub fn environment_name(key: &str) -> String {
    format!("HEADCOUNT_{}", key.to_uppercase().replace('-', "_"))
}
