//! Where a setting's value is from: flag, environment, file or default, in this order.
//!
//! Invariant: every refusal names the setting, the source of its value and what is allowed, in one line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use thiserror::Error;

use super::settings::{SETTINGS, environment_name};

/// The longest wait that a setting may ask for: an hour.
const WAIT_MS_CEILING: u64 = 3_600_000;

const DEFAULT: &str = "the default";
/// The settings whose values are secrets.
pub(super) const AMQP_URL: &str = "amqp-url";
pub(super) const MANAGEMENT_URL: &str = "management-url";
const HIDDEN: &str = "(hidden)";

/// Why the settings can't be used. Its text is one line.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A setting's value is not allowed.
    #[error("{key} is {value:?} (from {source_name}): it must be {allowed}")]
    Value {
        /// The setting.
        key: String,
        /// Its value.
        value: String,
        /// Where the value is from.
        source_name: String,
        /// What is allowed.
        allowed: String,
    },
    /// The file can't be read or is not TOML.
    #[error("the settings file {}: {detail}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
}

/// Whether a setting's value is never shown.
pub(super) fn is_secret(key: &str) -> bool {
    matches!(key, AMQP_URL | MANAGEMENT_URL)
}

/// Reads the file's keys; one that is no setting is refused.
fn read_file(path: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let fault = |detail: String| ConfigError::File {
        path: path.to_owned(),
        detail,
    };
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| fault(error.message().to_owned()))?;
    let mut values = BTreeMap::new();
    for (name, value) in table {
        let key = name.replace('_', "-");
        if !SETTINGS
            .iter()
            .any(|setting| setting.key == key && !name.contains('-'))
        {
            return Err(fault(format!(
                "{name} is not a setting; see headcount serve --help"
            )));
        }
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            _ => return Err(fault(format!("{name} must be a string or a whole number"))),
        };
        values.insert(key, value);
    }
    Ok(values)
}

pub(super) struct Values<'a> {
    matches: &'a ArgMatches,
    file: BTreeMap<String, String>,
    path: PathBuf,
}

impl<'a> Values<'a> {
    pub fn new(matches: &'a ArgMatches, file: Option<&Path>) -> Result<Self, ConfigError> {
        Ok(Self {
            matches,
            file: match file {
                Some(path) => read_file(path)?,
                None => BTreeMap::new(),
            },
            path: file.unwrap_or(Path::new("")).to_owned(),
        })
    }

    /// A setting's text and where it is from.
    fn get(&self, key: &str) -> (String, String) {
        // A setting that this command does not know has only its default.
        if let Ok(Some(texts)) = self.matches.try_get_many::<String>(key) {
            let source = match self.matches.value_source(key) {
                Some(ValueSource::EnvVariable) => environment_name(key),
                _ => format!("--{key}"),
            };
            let texts: Vec<&str> = texts.map(String::as_str).collect();
            return (texts.join(","), source);
        }
        if let Some(text) = self.file.get(key) {
            return (text.clone(), format!("the file {}", self.path.display()));
        }
        let default = SETTINGS.iter().find(|setting| setting.key == key);
        let default = default.map_or("", |setting| setting.default);
        (default.to_owned(), DEFAULT.to_owned())
    }

    pub fn parse<T>(
        &self,
        key: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let (value, source_name) = self.get(key);
        parse(&value).ok_or_else(|| ConfigError::Value {
            key: key.to_owned(),
            // It may have a password.
            value: if is_secret(key) { HIDDEN.into() } else { value },
            source_name,
            allowed: allowed.to_owned(),
        })
    }

    /// Whether nobody gave the setting a value.
    pub fn is_default(&self, key: &str) -> bool {
        self.get(key).1 == DEFAULT
    }

    pub fn number(&self, key: &str, min: u64, max: u64) -> Result<usize, ConfigError> {
        self.parse(
            key,
            &format!("a whole number from {min} to {max}"),
            |text| {
                let number: u64 = text.parse().ok()?;
                (min..=max).contains(&number).then_some(number as usize)
            },
        )
    }

    pub fn milliseconds(&self, key: &str) -> Result<Duration, ConfigError> {
        self.milliseconds_to(key, Duration::from_millis(WAIT_MS_CEILING))
    }

    pub fn milliseconds_to(&self, key: &str, max: Duration) -> Result<Duration, ConfigError> {
        let milliseconds = self.number(key, 1, max.as_millis() as u64)?;
        Ok(Duration::from_millis(milliseconds as u64))
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
