//! Settings that only nodes and operators of a cluster have.
//!
//! Invariant: what is checked here names no more of the broker than its settings' names.

use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;

use super::CommonConfig;
use super::secrets::{NamedFile, SecretTexts, amqp_urls};
use super::values::{ConfigError, Values};
use crate::model::CounterName;
use crate::socket::SocketPlace;

/// What a node of a cluster needs.
#[derive(Debug)]
pub struct ClusterConfig {
    /// RabbitMQ.
    pub broker: BrokerConfig,
    /// Whether queues are classic ones.
    pub classic_queues: bool,
    /// Time for a confirm.
    pub confirm_timeout: Duration,
    /// How often a connection proves that it lives.
    pub heartbeat: Duration,
    /// The file with the nodes' secret.
    pub cluster_secret_file: Option<NamedFile>,
    /// Where other nodes reach this one.
    pub advertise_url: Option<String>,
    /// Which cluster this node belongs to.
    pub cluster_id: String,
}

/// How to reach RabbitMQ.
#[derive(Debug)]
pub struct BrokerConfig {
    /// Its addresses; at least one.
    pub urls: SecretTexts,
    /// A file with certificates, in PEM, that are trusted beside the system's.
    pub ca_file: Option<NamedFile>,
    /// How the names of the cluster's exchanges and queues begin.
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

/// A name that no folder of `serve` has.
pub(super) fn plain_name(text: &str) -> Option<CounterName> {
    CounterName::new(text).filter(|name| name.as_str() != "local")
}

/// The broker for an operator's command.
///
/// # Errors
/// When no address is given, or one is none.
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

/// What a prefix and a cluster's id may be: names on the broker take at most 255 bytes, and it
/// keeps `amq.` for itself.
const WORD: &str = "1 to 64 letters, digits, -, _ and ., and not begin with amq.";

fn word(text: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(is_plain);
    (fits && !text.starts_with("amq.")).then(|| text.to_owned())
}

/// The counter's name for an operator's command.
///
/// # Errors
/// When it is no name.
pub fn counter_name(matches: &ArgMatches) -> Result<CounterName, ConfigError> {
    Values::new(matches, None)?.parse(
        "name",
        "a name such as c1: up to 64 letters, digits, - and _",
        plain_name,
    )
}

/// Whether queues are classic ones, for an operator's command.
///
/// # Errors
/// When the type is none.
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

/// The data folder for an operator's command.
///
/// # Errors
/// When it is empty.
pub fn data_dir(matches: &ArgMatches) -> Result<PathBuf, ConfigError> {
    Values::new(matches, None)?.parse("data-dir", "the path of a folder", |text| {
        (!text.is_empty()).then(|| PathBuf::from(text))
    })
}

/// The file with the nodes' secret for an operator's command.
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
