//! Settings: flags over environment over file over defaults, checked before anything starts.
//!
//! Invariant: every setting is declared once, in [`SETTINGS`], and every limit of the program is one of them
//! or a named constant. A bad setting ends the program with one line that says which, whence and what is
//! allowed.

mod settings;
mod values;

pub use settings::{SETTINGS, Setting, args, environment_name};
pub use values::ConfigError;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use tracing_subscriber::EnvFilter;

use self::values::Values;
use crate::coordinator::{AdmissionLimits, CoordinatorOptions};
use crate::http::{BodyLimits, HttpLimits, ServerLimits};
use crate::telemetry::LogFormat;

/// The greatest body allowed: with it, one post's batch stays under RabbitMQ 4's limit of 16 MiB a message.
const BODY_BYTES_CEILING: u64 = 12 * 1024 * 1024;

/// Strong reads at once, at most: some hundred kilobytes of positions each where coordinators restarted often.
const STRONG_READS_MAX: usize = 256;

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

/// Checks the settings of `matches`, made with [`args`], and of the optional file.
///
/// # Errors
/// The first setting that is not allowed.
pub fn serve_config(matches: &ArgMatches, file: Option<&Path>) -> Result<ServeConfig, ConfigError> {
    let values = Values::new(matches, file)?;
    let accept_timeout = values.milliseconds("accept-timeout-ms")?;
    let body_bytes_max = values.number("body-bytes-max", 1, BODY_BYTES_CEILING)?;
    Ok(ServeConfig {
        listen: values.parse(
            "listen",
            "an address and port such as 127.0.0.1:3000 or [::1]:3000",
            |text| text.parse().ok(),
        )?,
        data_dir: values.parse("data-dir", "the path of a folder", |text| {
            (!text.is_empty()).then(|| PathBuf::from(text))
        })?,
        memory_bytes: values.number("memory-mb", 1, 16_384)? << 20,
        http: HttpLimits {
            items_max: values.number("items-max", 1, 1_000_000)?,
            bodies: BodyLimits {
                body_bytes_max,
                bodies_bytes_max: values.number(
                    "bodies-bytes-max",
                    body_bytes_max as u64,
                    1 << 40,
                )?,
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
            strong_reads_max: STRONG_READS_MAX,
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
        let readme = include_str!("../../README.md");
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
