//! Settings of cluster nodes and of operator commands.
//!
//! Invariant: errors from here name the settings of the broker, never their values.

use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;

use super::CommonConfig;
use super::secrets::{NamedFile, SecretTexts, amqp_urls};
use super::values::{ConfigError, Values};
use crate::model::CounterName;
use crate::socket::SocketPlace;

/// Settings of a cluster node.
#[derive(Debug)]
pub struct ClusterConfig {
    /// Connection to RabbitMQ.
    pub broker: BrokerConfig,
    /// Whether queues are classic instead of quorum queues.
    pub classic_queues: bool,
    /// Timeout for a publisher confirm.
    pub confirm_timeout: Duration,
    /// Heartbeat interval of connections to the broker.
    pub heartbeat: Duration,
    /// File with the secret that nodes share.
    pub cluster_secret_file: Option<NamedFile>,
    /// URL at which other nodes reach this one.
    pub advertise_url: Option<String>,
    /// Id of the cluster that this node belongs to; empty if not set.
    pub cluster_id: String,
}

/// Connection settings of RabbitMQ.
#[derive(Debug)]
pub struct BrokerConfig {
    /// URLs of the broker; at least one.
    pub urls: SecretTexts,
    /// PEM file with certificate authorities to trust in addition to the system's.
    pub ca_file: Option<NamedFile>,
    /// Name prefix of all exchanges and queues of the cluster.
    pub prefix: String,
}

pub(super) fn counter_names(text: &str) -> Option<Vec<CounterName>> {
    let mut names: Vec<CounterName> = text
        .split(',')
        .map(|name| plain_name(name.trim()))
        .collect::<Option<_>>()?;
    let count = names.len();
    names.sort();
    names.dedup();
    (names.len() == count).then_some(names)
}

/// Parses a counter name. Rejects `local`, the name that `serve` records in its data directory.
pub(super) fn plain_name(text: &str) -> Option<CounterName> {
    CounterName::new(text).filter(|name| name.as_str() != "local")
}

/// The broker settings of an operator command.
///
/// # Errors
/// No broker URL is set, or one is invalid.
pub fn broker(matches: &ArgMatches) -> Result<BrokerConfig, ConfigError> {
    broker_of(&Values::new(matches, None)?)
}

fn broker_of(values: &Values<'_>) -> Result<BrokerConfig, ConfigError> {
    Ok(BrokerConfig {
        urls: amqp_urls(values)?,
        ca_file: NamedFile::of(values, "amqp-ca-file"),
        prefix: values.parse("prefix", WORD, word)?,
    })
}

/// What a prefix and a cluster id may be: AMQP limits names to 255 bytes, and the broker reserves
/// `amq.` for itself.
const WORD: &str = "1 to 64 letters, digits, -, _ and ., not starting with amq.";

fn word(text: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(is_plain);
    (fits && !text.starts_with("amq.")).then(|| text.to_owned())
}

/// The counter name of an operator command.
///
/// # Errors
/// The name is not valid.
pub fn counter_name(matches: &ArgMatches) -> Result<CounterName, ConfigError> {
    Values::new(matches, None)?.parse(
        "name",
        "a name such as c1: up to 64 letters, digits, - and _",
        plain_name,
    )
}

/// Whether an operator command uses classic queues.
///
/// # Errors
/// The queue type is not valid.
pub fn classic_queues(matches: &ArgMatches) -> Result<bool, ConfigError> {
    are_classic(&Values::new(matches, None)?)
}

fn are_classic(values: &Values<'_>) -> Result<bool, ConfigError> {
    values.parse("queue-type", "quorum or classic", |text| match text {
        "quorum" => Some(false),
        "classic" => Some(true),
        _ => None,
    })
}

/// The data directory of an operator command.
///
/// # Errors
/// The path is empty.
pub fn data_dir(matches: &ArgMatches) -> Result<PathBuf, ConfigError> {
    Values::new(matches, None)?.parse("data-dir", "the path of a directory", |text| {
        (!text.is_empty()).then(|| PathBuf::from(text))
    })
}

/// The file with the shared secret, for an operator command.
///
/// # Errors
/// None at present.
pub fn secret_file(matches: &ArgMatches) -> Result<Option<NamedFile>, ConfigError> {
    let values = Values::new(matches, None)?;
    Ok(NamedFile::of(&values, "cluster-secret-file"))
}

pub(super) fn cluster(
    values: &Values<'_>,
    common: &CommonConfig,
) -> Result<ClusterConfig, ConfigError> {
    let optional = |key, allowed, plausible: fn(&str) -> bool| {
        values.parse(key, allowed, |text| match text {
            "" => Some(None),
            text => plausible(text).then(|| Some(text.to_owned())),
        })
    };
    let secret_file = NamedFile::of(values, "cluster-secret-file");
    if secret_file.is_none() && !common.listen.is_local() {
        values.parse(
            "listen",
            "a loopback address such as 127.0.0.1:3000 as long as cluster-secret-file is not set",
            |_| None::<()>,
        )?;
    }
    Ok(ClusterConfig {
        broker: broker_of(values)?,
        classic_queues: are_classic(values)?,
        confirm_timeout: values.milliseconds("confirm-timeout-ms")?,
        heartbeat: Duration::from_secs(values.number("heartbeat-s", 1, 600)? as u64),
        cluster_secret_file: secret_file,
        advertise_url: optional(
            "advertise-url",
            "a URL such as http://host:3001, or unix:/path of a socket",
            |text| {
                let is_socket = matches!(text.parse(), Ok(SocketPlace::Unix(_)));
                is_socket || text.starts_with("http://") || text.starts_with("https://")
            },
        )?,
        cluster_id: values.parse("cluster-id", WORD, |text| match text {
            "" => Some(String::new()),
            text => word(text),
        })?,
    })
}
