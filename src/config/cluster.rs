//! Settings that only nodes and operators of a cluster have.
//!
//! Invariant: no text of a broker's address is ever shown: it may hold a password.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;

use super::CommonConfig;
use super::values::{self, ConfigError, Values};
use crate::model::CounterName;

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
    pub cluster_secret_file: Option<PathBuf>,
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
    pub ca_file: Option<PathBuf>,
    /// How the names of the cluster's exchanges and queues begin.
    pub prefix: String,
}

/// Texts that are never shown.
#[derive(Clone)]
pub struct SecretTexts(pub Vec<String>);

impl fmt::Debug for SecretTexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hidden", self.0.len())
    }
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
        ca_file: values.parse("amqp-ca-file", "the path of a file", |text| {
            Some((!text.is_empty()).then(|| PathBuf::from(text)))
        })?,
        prefix: values.parse("prefix", WORD, word)?,
    })
}

/// What a prefix and a cluster's id may be: names on the broker take at most 255 bytes, and it keeps `amq.` for itself.
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
pub fn secret_file(matches: &ArgMatches) -> Result<Option<PathBuf>, ConfigError> {
    Values::new(matches, None)?.parse("cluster-secret-file", "the path of a file", |text| {
        Some((!text.is_empty()).then(|| PathBuf::from(text)))
    })
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
    let secret_file = optional("cluster-secret-file", "the path of a file", |_| true)?;
    if secret_file.is_none() && !common.listen.ip().is_loopback() {
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
        cluster_secret_file: secret_file.map(PathBuf::from),
        advertise_url: optional("advertise-url", "a URL such as http://host:3001", |text| {
            text.starts_with("http://") || text.starts_with("https://")
        })?,
        cluster_id: values.parse("cluster-id", WORD, |text| match text {
            "" => Some(String::new()),
            text => word(text),
        })?,
    })
}

/// The broker's addresses.
fn amqp_urls(values: &Values<'_>) -> Result<SecretTexts, ConfigError> {
    let urls = secret_urls(values, values::AMQP_URL, "amqp-url-file")?;
    let plausible = |url: &String| url.starts_with("amqp://") || url.starts_with("amqps://");
    values.parse(
        values::AMQP_URL,
        "amqp://user:password@host:port/vhost or amqps://…, given here or in amqp-url-file",
        |_| (!urls.is_empty() && urls.iter().all(plausible)).then_some(()),
    )?;
    Ok(SecretTexts(urls))
}

/// The addresses of the broker's management API; none where it is not to be asked.
pub(super) fn management_urls(values: &Values<'_>) -> Result<SecretTexts, ConfigError> {
    let urls = secret_urls(values, values::MANAGEMENT_URL, "management-url-file")?;
    let plausible = |url: &String| url.starts_with("http://") || url.starts_with("https://");
    values.parse(
        values::MANAGEMENT_URL,
        "http://user:password@host:15672 or https://…, given here or in management-url-file",
        |_| urls.iter().all(plausible).then_some(()),
    )?;
    Ok(SecretTexts(urls))
}

/// The addresses that a setting gives, and those in the file that another one names.
fn secret_urls(values: &Values<'_>, key: &str, file_key: &str) -> Result<Vec<String>, ConfigError> {
    let split = |text: &str| -> Vec<String> {
        let parts = text.split([',', '\n']).map(str::trim);
        parts
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let mut urls: Vec<String> = values.parse(key, "", |text| Some(split(text)))?;
    let file = values.parse(file_key, "", |text| Some(PathBuf::from(text)))?;
    if !file.as_os_str().is_empty() {
        let text = std::fs::read_to_string(&file).map_err(|error| ConfigError::File {
            path: file,
            detail: error.to_string(),
        })?;
        urls.extend(split(&text));
    }
    Ok(urls)
}
