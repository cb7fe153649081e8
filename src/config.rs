//! Settings: flags over environment over file over defaults, checked before anything starts.
//!
//! Invariant: every setting is declared once, in [`SETTINGS`], and every limit of the program is one of them
//! or a named constant. A bad setting ends the program with one line that says which, whence and what is
//! allowed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches};
use thiserror::Error;
use tracing_subscriber::EnvFilter;

use crate::coordinator::{AdmissionLimits, CoordinatorOptions};
use crate::http::{BodyLimits, HttpLimits, ServerLimits};
use crate::telemetry::LogFormat;

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
        "Time a connection may be idle, or take over a request's head",
    ),
    setting(
        "drain-timeout-ms",
        "MS",
        "10000",
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

/// The greatest body allowed: with it, one post's batch stays under RabbitMQ 4's limit of 16 MiB a message.
const BODY_BYTES_CEILING: u64 = 12 * 1024 * 1024;

/// The longest wait that a setting may ask for: an hour.
const WAIT_MS_CEILING: u64 = 3_600_000;

/// The checked settings of `headcount serve`.
#[derive(Debug)]
pub struct ServeConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Bytes of memory for recent items.
    pub memory_bytes: usize,
    /// Limits of what clients may send.
    pub http: HttpLimits,
    /// Limits of connections.
    pub server: ServerLimits,
    /// The coordinator's limits.
    pub coordinator: CoordinatorOptions,
    /// What is logged.
    pub log: EnvFilter,
    /// How log lines look.
    pub log_format: LogFormat,
}

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

/// Checks the settings of `matches`, made with [`args`], and of the optional file.
///
/// # Errors
/// The first setting that is not allowed.
pub fn serve_config(matches: &ArgMatches, file: Option<&Path>) -> Result<ServeConfig, ConfigError> {
    let values = Values {
        matches,
        file: match file {
            Some(path) => read_file(path)?,
            None => BTreeMap::new(),
        },
        path: file.unwrap_or(Path::new("")).to_owned(),
    };
    let accept_timeout = values.milliseconds("accept-timeout-ms")?;
    Ok(ServeConfig {
        listen: values.parse(
            "listen",
            "an address and port such as 127.0.0.1:3000 or [::1]:3000",
            |text| text.parse().ok(),
        )?,
        data_dir: values.parse("data-dir", "the path of a folder", |text| {
            (!text.is_empty()).then(|| PathBuf::from(text))
        })?,
        memory_bytes: values.number("memory-mb", 1, 1 << 20)? << 20,
        http: HttpLimits {
            items_max: values.number("items-max", 1, 1_000_000)?,
            bodies: BodyLimits {
                body_bytes_max: values.number("body-bytes-max", 1, BODY_BYTES_CEILING)?,
                bodies_bytes_max: values.number("bodies-bytes-max", BODY_BYTES_CEILING, 1 << 40)?,
                body_timeout: values.milliseconds("body-timeout-ms")?,
            },
        },
        server: ServerLimits {
            connections_max: values.number("connections-max", 1, 1_000_000)?,
            idle_timeout: values.milliseconds("idle-timeout-ms")?,
            drain_timeout: values.milliseconds("drain-timeout-ms")?,
        },
        coordinator: CoordinatorOptions {
            batch_bytes_max: values.number("batch-bytes-max", 1, BODY_BYTES_CEILING)?,
            admission: AdmissionLimits {
                waiting_bytes_max: values.number("waiting-bytes-max", 1, 1 << 40)?,
                waiting_posts_max: values.number("waiting-posts-max", 1, 1_000_000)?,
            },
            accept_timeout,
        },
        log: values.parse(
            "log",
            "a level such as info, or a filter such as headcount=debug",
            |text| EnvFilter::try_new(text).ok().filter(|_| !text.is_empty()),
        )?,
        log_format: values.parse("log-format", "auto, text or json", |text| match text {
            "auto" => Some(LogFormat::Auto),
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        })?,
    })
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

struct Values<'a> {
    matches: &'a ArgMatches,
    file: BTreeMap<String, String>,
    path: PathBuf,
}

impl Values<'_> {
    /// A setting's text and where it is from.
    fn get(&self, key: &str) -> (String, String) {
        if let Some(text) = self.matches.get_one::<String>(key) {
            let source = match self.matches.value_source(key) {
                Some(ValueSource::EnvVariable) => environment_name(key),
                _ => format!("--{key}"),
            };
            return (text.clone(), source);
        }
        if let Some(text) = self.file.get(key) {
            return (text.clone(), format!("the file {}", self.path.display()));
        }
        let default = SETTINGS.iter().find(|setting| setting.key == key);
        let default = default.map_or("", |setting| setting.default);
        (default.to_owned(), "the default".to_owned())
    }

    fn parse<T>(
        &self,
        key: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let (value, source_name) = self.get(key);
        parse(&value).ok_or_else(|| ConfigError::Value {
            key: key.to_owned(),
            value,
            source_name,
            allowed: allowed.to_owned(),
        })
    }

    fn number(&self, key: &str, min: u64, max: u64) -> Result<usize, ConfigError> {
        self.parse(
            key,
            &format!("a whole number from {min} to {max}"),
            |text| {
                let number: u64 = text.parse().ok()?;
                (min..=max).contains(&number).then_some(number as usize)
            },
        )
    }

    fn milliseconds(&self, key: &str) -> Result<Duration, ConfigError> {
        let milliseconds = self.number(key, 1, WAIT_MS_CEILING)?;
        Ok(Duration::from_millis(milliseconds as u64))
    }
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    fn resolve(flags: &[&str], file: &str) -> Result<ServeConfig, String> {
        let command = Command::new("test").no_binary_name(true);
        let command = args().fold(command, |command, arg| command.arg(arg.env(None::<&str>)));
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
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.http.items_max, 5);
        assert_eq!(config.http.bodies.body_bytes_max, 8 << 20);
    }

    #[test]
    fn the_readme_shows_every_setting() {
        let readme = include_str!("../README.md");
        for Setting {
            key, default, help, ..
        } in SETTINGS
        {
            let row = format!("| `{key}` | `{default}` | {help} |\n");
            assert!(readme.contains(&row), "{row}");
        }
    }

    #[test]
    fn a_bad_setting_is_one_line_that_names_it_its_source_and_what_is_allowed() {
        let error = |flags: &[&str], file| resolve(flags, file).expect_err("refused");
        assert_eq!(
            error(&["--listen", "here"], ""),
            "listen is \"here\" (from --listen): it must be an address and port such as 127.0.0.1:3000 or [::1]:3000"
        );
        assert_eq!(
            error(&[], "items_max = 0"),
            "items-max is \"0\" (from the file FILE): it must be a whole number from 1 to 1000000"
        );
        assert_eq!(
            error(&[], "itemsmax = 1"),
            "the settings file FILE: itemsmax is not a setting; see headcount serve --help"
        );
        assert!(!error(&[], "listen = [").contains('\n'));
        assert!(!error(&["--log-format", "xml"], "").contains('\n'));
    }
}
