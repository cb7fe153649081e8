//! Looks up the value of a setting: flag, environment, settings file or default, in this order.
//!
//! Invariant: every error names the setting, the source of its value and what is allowed, in one
//! line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use thiserror::Error;

use super::settings::{SETTINGS, environment_name};
use crate::model::BYTE_ORDER_MARK;

/// Maximum of a timeout or delay: an hour.
const WAIT_MS_CEILING: u64 = 3_600_000;

/// Settings with secret values.
pub(super) const AMQP_URL: &str = "amqp-url";
pub(super) const MANAGEMENT_URL: &str = "management-url";
pub(super) const HIDDEN: &str = "(hidden)";

/// An invalid setting. Its message is one line.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A value is not allowed.
    #[error("{key} is {value:?} (from {source_name}): it must be {allowed}")]
    Value {
        /// The setting.
        key: String,
        /// Its value.
        value: String,
        /// The source of the value.
        source_name: String,
        /// What is allowed.
        allowed: String,
    },
    /// A required setting has no value.
    #[error("{key} is not set: it must be {allowed}")]
    Missing {
        /// The setting.
        key: String,
        /// What is allowed.
        allowed: String,
    },
    /// A file that a setting names can't be used.
    #[error("{key} (from {source_name}): {}: {detail}", path.display())]
    NamedFile {
        /// The setting.
        key: String,
        /// The source of the file's name.
        source_name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The settings file can't be read or is not TOML.
    #[error("the settings file {} (from {source_name}): {detail}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The source of its name.
        source_name: String,
        /// What is wrong.
        detail: String,
    },
}

/// Whether a setting's value must never be shown.
pub(super) fn is_secret(key: &str) -> bool {
    matches!(key, AMQP_URL | MANAGEMENT_URL)
}

/// Precedence of sources: a value from a higher source replaces one from a lower source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Default,
    File,
    Environment,
    Flag,
}

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub rank: Rank,
    /// For messages.
    pub name: String,
}

/// Reads the keys and values of the settings file and rejects unknown keys. The error says what is
/// wrong.
fn read_file(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| error.message().to_owned())?;
    let mut values = BTreeMap::new();
    for (name, value) in table {
        let key = name.replace('_', "-");
        if !SETTINGS
            .iter()
            .any(|setting| setting.key == key && !name.contains('-'))
        {
            return Err(format!(
                "{name} is not a setting; see headcount serve --help"
            ));
        }
        let value = text_of(&value).ok_or_else(|| {
            format!(
                "{name} must be a string, a whole number, true or false, or an array of strings"
            )
        })?;
        values.insert(key, value);
    }
    Ok(values)
}

/// The `log-format` of a settings file, if the file can be read and sets it.
#[must_use]
pub fn log_format_of(path: &Path) -> Option<String> {
    read_file(path).ok()?.remove("log-format")
}

/// Converts a TOML value to the text that a flag would have. The elements of an array are joined by
/// commas.
fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Array(values) => {
            let texts: Option<Vec<&str>> = values.iter().map(toml::Value::as_str).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => None,
    }
}

pub(super) struct Values<'a> {
    matches: &'a ArgMatches,
    file: BTreeMap<String, String>,
    path: PathBuf,
}

impl<'a> Values<'a> {
    pub(super) fn new(matches: &'a ArgMatches, file: Option<&Path>) -> Result<Self, ConfigError> {
        let read = file.map(read_file).transpose();
        let path = file.unwrap_or(Path::new("")).to_owned();
        Ok(Self {
            matches,
            file: read
                .map_err(|detail| ConfigError::File {
                    path: path.clone(),
                    source_name: given_by(matches, "config").name,
                    detail,
                })?
                .unwrap_or_default(),
            path,
        })
    }

    /// The text of a setting, and its source.
    pub(super) fn get(&self, key: &str) -> (String, Source) {
        // A setting that this command does not have keeps its default.
        if let Ok(Some(texts)) = self.matches.try_get_many::<String>(key) {
            let texts: Vec<&str> = texts.map(String::as_str).collect();
            return (texts.join(","), given_by(self.matches, key));
        }
        if let Some(text) = self.file.get(key) {
            let source = Source {
                rank: Rank::File,
                name: format!("the file {}", self.path.display()),
            };
            return (text.clone(), source);
        }
        let source = Source {
            rank: Rank::Default,
            name: "the default".to_owned(),
        };
        (default(key).to_owned(), source)
    }

    pub(super) fn parse<T>(
        &self,
        key: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let (value, source) = self.get(key);
        parse(&value).ok_or_else(|| ConfigError::Value {
            key: key.to_owned(),
            // It may contain a password.
            value: if is_secret(key) { HIDDEN.into() } else { value },
            source_name: source.name,
            allowed: allowed.to_owned(),
        })
    }

    /// Whether the setting has its default value.
    pub(super) fn is_default(&self, key: &str) -> bool {
        self.get(key).1.rank == Rank::Default
    }

    pub(super) fn number(&self, key: &str, min: u64, max: u64) -> Result<usize, ConfigError> {
        self.parse(
            key,
            &format!("a whole number from {min} to {max}"),
            |text| {
                let number: u64 = text.parse().ok()?;
                (min..=max).contains(&number).then_some(number as usize)
            },
        )
    }

    pub(super) fn milliseconds(&self, key: &str) -> Result<Duration, ConfigError> {
        self.milliseconds_to(key, Duration::from_millis(WAIT_MS_CEILING))
    }

    /// Like [`Self::milliseconds`], but allows 0.
    pub(super) fn milliseconds_or_none(&self, key: &str) -> Result<Duration, ConfigError> {
        let milliseconds = self.number(key, 0, WAIT_MS_CEILING)?;
        Ok(Duration::from_millis(milliseconds as u64))
    }

    pub(super) fn milliseconds_to(
        &self,
        key: &str,
        max: Duration,
    ) -> Result<Duration, ConfigError> {
        let milliseconds = self.number(key, 1, max.as_millis() as u64)?;
        Ok(Duration::from_millis(milliseconds as u64))
    }
}

/// The default of a setting; empty if it has none.
pub(super) fn default(key: &str) -> &'static str {
    let setting = SETTINGS.iter().find(|setting| setting.key == key);
    setting.map_or("", |setting| setting.default)
}

/// Whether the flag or the environment set the argument `key`.
fn given_by(matches: &ArgMatches, key: &str) -> Source {
    let source = matches.try_contains_id(key).ok();
    match source.and_then(|_| matches.value_source(key)) {
        Some(ValueSource::EnvVariable) => Source {
            rank: Rank::Environment,
            name: environment_name(key),
        },
        _ => Source {
            rank: Rank::Flag,
            name: format!("--{key}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::super::{Role, args, coordinator_config};

    #[test]
    fn a_refused_address_is_never_shown() {
        for (key, other) in [
            ("amqp-url", "management-url"),
            ("management-url", "amqp-url"),
        ] {
            let command = Command::new("test").no_binary_name(true);
            let known = args(Role::Coordinator).map(|arg| arg.env(None::<&str>));
            let valid = match other {
                "amqp-url" => "amqp://me:s3cret@broker",
                _ => "http://me:s3cret@broker:15672",
            };
            let flags = [
                format!("--{key}=ftp://me:s3cret@broker"),
                format!("--{other}={valid}"),
                "--counters=c1".to_owned(),
            ];
            let matches = command.args(known).try_get_matches_from(flags);
            let error = coordinator_config(&matches.expect("flags"), None).expect_err(key);
            let text = error.to_string();
            assert!(
                text.starts_with(&format!("{key} is \"(hidden)\"")),
                "{text}"
            );
            assert!(!text.contains("s3cret"), "{text}");
        }
    }
}
