//! Settings from flags, environment, settings file and defaults, in this order of precedence. All
//! are checked before the program starts anything.
//!
//! Invariant: every setting is declared once, in [`SETTINGS`], and every limit of the program is a
//! setting or a named constant. An invalid setting ends the program with one line that names the
//! setting, the source of its value and what is allowed.

mod cluster;
mod log_filter;
mod secrets;
mod settings;
mod values;

pub use cluster::{
    BrokerConfig, ClusterConfig, broker, classic_queues, counter_name, data_dir, secret_file,
};
pub use secrets::{NamedFile, SecretText, SecretTexts, read_secret};
pub use settings::{Role, SETTINGS, Setting, args, environment_name};
pub use values::{ConfigError, log_format_of};

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;
use tracing_subscriber::EnvFilter;

use self::values::Values;
use crate::coordinator::{AdmissionLimits, CoordinatorOptions};
use crate::http::{AccessLimits, BodyLimits, HttpLimits, ServerLimits};
use crate::model::CounterName;
use crate::socket::SocketPlace;
use crate::telemetry::LogFormat;

/// Maximum of `body-bytes-max`. With it, the batch of one post stays below RabbitMQ 4's message
/// size limit of 16 MiB.
const BODY_BYTES_CEILING: u64 = 12 * 1024 * 1024;

/// Allowed listen addresses.
const ADDRESS: &str =
    "an address and port such as 127.0.0.1:3000 or [::1]:3000, or unix:/path of a socket";

/// Allowed CORS origins.
const ORIGINS: &str = "origins without a path, separated by commas, such as \
    https://app.example,http://localhost:5173; or *";

/// Allowed host names.
const HOSTS: &str = "host names without a port, separated by commas, such as counts.example; or *";

/// Maximum number of concurrent strong reads. Each needs a few hundred kilobytes for positions if
/// coordinators restarted often.
const STRONG_READS_MAX: usize = 256;

/// Settings of every node.
#[derive(Debug)]
pub struct CommonConfig {
    /// Listen address.
    pub listen: SocketPlace,
    /// Additional address that answers only probes.
    pub probe_listen: Option<SocketPlace>,
    /// Allowed origins and host names.
    pub access: AccessLimits,
    /// Limits on connections.
    pub server: ServerLimits,
    /// Delay between the signal to stop and closing the listener.
    pub shutdown_delay: Duration,
    /// Log filter.
    pub log: EnvFilter,
    /// Format of log lines.
    pub log_format: LogFormat,
}

/// Settings of a node with a store.
#[derive(Debug)]
pub struct StoreConfig {
    /// Data directory.
    pub data_dir: PathBuf,
    /// Memory for recent items and filters, in bytes.
    pub memory_bytes: usize,
}

/// The checked settings of `headcount serve`.
#[derive(Debug)]
pub struct ServeConfig {
    /// Settings of every node.
    pub common: CommonConfig,
    /// Settings of the store.
    pub store: StoreConfig,
    /// Limits on requests.
    pub http: HttpLimits,
    /// Options of the coordinator.
    pub coordinator: CoordinatorOptions,
}

/// The checked settings of `headcount coordinator`.
#[derive(Debug)]
pub struct CoordinatorConfig {
    /// Settings of every node.
    pub common: CommonConfig,
    /// Settings of a cluster node.
    pub cluster: ClusterConfig,
    /// The counters that must receive every item; at least one.
    pub counters: Vec<CounterName>,
    /// Queue length in batches above which posts are rejected.
    pub queue_messages_max: u64,
    /// URLs of the broker's management API; empty if it must not be queried.
    pub management_urls: SecretTexts,
    /// Limits on requests.
    pub http: HttpLimits,
    /// Options of the coordinator.
    pub coordinator: CoordinatorOptions,
}

/// The checked settings of `headcount counter`.
#[derive(Debug)]
pub struct CounterConfig {
    /// Settings of every node.
    pub common: CommonConfig,
    /// Settings of a cluster node.
    pub cluster: ClusterConfig,
    /// Settings of the store.
    pub store: StoreConfig,
    /// The counter's name.
    pub name: CounterName,
    /// Whether to adopt the data directory as the cluster's history.
    pub adopt: bool,
    /// Maximum number of batches in flight.
    pub prefetch: u16,
}

/// Checks the settings in `matches`, which [`args`] declares, and in the optional settings file.
///
/// # Errors
/// The first invalid setting.
pub fn serve_config(matches: &ArgMatches, file: Option<&Path>) -> Result<ServeConfig, ConfigError> {
    let values = Values::new(matches, file)?;
    Ok(ServeConfig {
        common: common(&values)?,
        store: store(&values)?,
        http: http_limits(&values)?,
        coordinator: coordinator_options(&values)?,
    })
}

/// Checks the settings of a coordinator, like [`serve_config`].
///
/// # Errors
/// The first invalid setting.
pub fn coordinator_config(
    matches: &ArgMatches,
    file: Option<&Path>,
) -> Result<CoordinatorConfig, ConfigError> {
    let values = Values::new(matches, file)?;
    let common = common(&values)?;
    Ok(CoordinatorConfig {
        cluster: cluster::cluster(&values, &common)?,
        common,
        counters: values.parse(
            "counters",
            "distinct counter names of letters, digits, - and _, separated by commas, such as \
                c1,c2,c3",
            cluster::counter_names,
        )?,
        queue_messages_max: values.number("queue-messages-max", 1, 1 << 40)? as u64,
        management_urls: secrets::management_urls(&values)?,
        http: http_limits(&values)?,
        coordinator: coordinator_options(&values)?,
    })
}

/// Checks the settings of a counter, like [`serve_config`].
///
/// # Errors
/// The first invalid setting.
pub fn counter_config(
    matches: &ArgMatches,
    file: Option<&Path>,
) -> Result<CounterConfig, ConfigError> {
    let values = Values::new(matches, file)?;
    let mut common = common(&values)?;
    if values.is_default("listen") {
        // A free port: nodes discover a counter's address, and several counters may run on one
        // machine.
        common.listen = SocketPlace::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    }
    Ok(CounterConfig {
        cluster: cluster::cluster(&values, &common)?,
        common,
        store: store(&values)?,
        name: values.parse(
            "name",
            "a name such as c1: up to 64 letters, digits, - and _",
            cluster::plain_name,
        )?,
        adopt: values.parse("adopt", "true or false", |text| text.parse().ok())?,
        prefetch: values.number("prefetch", 1, 10_000)? as u16,
    })
}

fn common(values: &Values<'_>) -> Result<CommonConfig, ConfigError> {
    Ok(CommonConfig {
        listen: values.parse("listen", ADDRESS, |text| text.parse().ok())?,
        probe_listen: values.parse("probe-listen", ADDRESS, |text| match text {
            "" => Some(None),
            text => text.parse().ok().map(Some),
        })?,
        access: AccessLimits {
            cors_origins: values.parse("cors-origins", ORIGINS, |text| list(text, is_origin))?,
            hosts: values.parse("hosts", HOSTS, |text| list(text, is_host))?,
        },
        server: ServerLimits {
            connections_max: values.number("connections-max", 1, 1_000_000)?,
            idle_timeout: values.milliseconds("idle-timeout-ms")?,
            drain_timeout: values.milliseconds("drain-timeout-ms")?,
        },
        shutdown_delay: values.milliseconds_or_none("shutdown-delay-ms")?,
        log: values.parse(
            "log",
            "a level (off, error, warn, info, debug or trace), optionally with levels of crates, \
                such as info,headcount_http=debug",
            |text| log_filter::parse(text, values::default("log")),
        )?,
        log_format: values.parse("log-format", "auto, text or json", |text| match text {
            "auto" => Some(LogFormat::Auto),
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        })?,
    })
}

/// Splits a comma-separated list and checks each part with `must_be`. An empty text is an empty
/// list.
fn list(text: &str, must_be: impl Fn(&str) -> bool) -> Option<Vec<String>> {
    let parts = text.split(',').map(str::trim).filter(|_| !text.is_empty());
    parts
        .map(|part| must_be(part).then(|| part.to_owned()))
        .collect()
}

/// Whether a text is `*`, `null`, or an origin: scheme, host and port.
fn is_origin(text: &str) -> bool {
    let place = text.split_once("://").map(|(_, place)| place);
    matches!(text, "*" | "null") || place.is_some_and(is_host)
}

fn is_host(text: &str) -> bool {
    let is_part =
        |letter: char| !letter.is_whitespace() && !matches!(letter, '/' | '?' | '#' | '@');
    !text.is_empty() && text.chars().all(is_part)
}

fn store(values: &Values<'_>) -> Result<StoreConfig, ConfigError> {
    Ok(StoreConfig {
        data_dir: values.parse("data-dir", "the path of a directory", |text| {
            (!text.is_empty()).then(|| PathBuf::from(text))
        })?,
        memory_bytes: values.number("memory-mb", 1, 16_384)? << 20,
    })
}

fn http_limits(values: &Values<'_>) -> Result<HttpLimits, ConfigError> {
    let body_bytes_max = values.number("body-bytes-max", 1, BODY_BYTES_CEILING)?;
    Ok(HttpLimits {
        items_max: values.number("items-max", 1, 1_000_000)?,
        bodies: BodyLimits {
            body_bytes_max,
            bodies_bytes_max: values.number("bodies-bytes-max", body_bytes_max as u64, 1 << 40)?,
            body_timeout: values.milliseconds("body-timeout-ms")?,
        },
    })
}

fn coordinator_options(values: &Values<'_>) -> Result<CoordinatorOptions, ConfigError> {
    Ok(CoordinatorOptions {
        batch_bytes_max: values.number("batch-bytes-max", 1, BODY_BYTES_CEILING)?,
        admission: AdmissionLimits {
            waiting_bytes_max: values.number("waiting-bytes-max", 1, 1 << 40)?,
            waiting_posts_max: values.number("waiting-posts-max", 1, 1_000_000)?,
        },
        accept_timeout: values
            .milliseconds_to("accept-timeout-ms", CoordinatorOptions::ACCEPT_TIMEOUT_MAX)?,
        strong_reads_max: STRONG_READS_MAX,
    })
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    fn resolve(flags: &[&str], file: &str) -> Result<ServeConfig, String> {
        let command = Command::new("test").no_binary_name(true);
        let command =
            args(Role::Serve).fold(command, |command, arg| command.arg(arg.env(None::<&str>)));
        let matches = command
            .try_get_matches_from(flags)
            .map_err(|error| error.to_string())?;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("headcount.toml");
        std::fs::write(&path, file).expect("written");
        serve_config(&matches, Some(&path)).map_err(|error| {
            error
                .to_string()
                .replace(&path.display().to_string(), "FILE")
        })
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = "listen = \"127.0.0.1:1\"\nitems_max = 5\n";
        let config = resolve(&["--listen", "127.0.0.1:2"], file).expect("valid");
        assert_eq!(config.common.listen.to_string(), "127.0.0.1:2");
        assert_eq!(config.http.items_max, 5);
        assert_eq!(config.http.bodies.body_bytes_max, 8 << 20);
    }

    #[test]
    fn the_file_takes_what_toml_has_for_a_value() {
        let of_counter = |file: &str| {
            let path = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(path.path(), file).expect("written");
            let command = args(Role::Counter).fold(Command::new("test"), |command, arg| {
                command.arg(arg.env(None::<&str>))
            });
            let matches = command.try_get_matches_from(["test"]).expect("flags");
            counter_config(&matches, Some(path.path()))
        };
        let file = "\u{feff}adopt = true\nname = \"c1\"\namqp_url = [\"amqp://a\", \"amqp://b\"]\n";
        let config = of_counter(file).expect("valid");
        assert!(config.adopt);
        assert_eq!(config.cluster.broker.urls.0.len(), 2);
    }

    #[test]
    fn the_readme_shows_every_setting() {
        let readme = include_str!("../../README.md");
        for setting in SETTINGS {
            let Setting {
                key, default, help, ..
            } = setting;
            let roles = match setting.roles.len() {
                3 => "all".to_owned(),
                _ => setting
                    .roles
                    .iter()
                    .map(|role| role.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            };
            let default = if default.is_empty() {
                String::new()
            } else {
                format!("`{default}`")
            };
            let row = format!("| `{key}` | {roles} | {default} | {help} |\n");
            assert!(readme.contains(&row), "{row}");
        }
    }

    #[test]
    fn a_bad_setting_is_one_line_that_names_it_its_source_and_what_is_allowed() {
        let error = |flags: &[&str], file| resolve(flags, file).expect_err("refused");
        assert_eq!(
            error(&["--listen", "here"], ""),
            "listen is \"here\" (from --listen): it must be an address and port such as \
                127.0.0.1:3000 or [::1]:3000, or unix:/path of a socket"
        );
        assert_eq!(
            error(&[], "items_max = 0"),
            "items-max is \"0\" (from the file FILE): it must be a whole number from 1 to 1000000"
        );
        assert_eq!(
            error(&[], "itemsmax = 1"),
            "the settings file FILE (from --config): itemsmax is not a setting; see headcount \
                serve --help"
        );
        assert_eq!(
            error(&[], "items_max = 1.5"),
            "the settings file FILE (from --config): items_max must be a string, a whole number, \
                true or false, or an array of strings"
        );
        assert!(!error(&[], "listen = [").contains('\n'));
        assert!(!error(&["--log-format", "xml"], "").contains('\n'));
    }
}
