//! Parses the log filter: a default level, and levels for single crates and modules.
//!
//! Invariant: an unknown level never silences the log: the filter is rejected. Crates and modules
//! without a level of their own use the default.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};

/// Paths of modules that have since become crates. A path stands before its own prefixes.
const RENAMED: [(&str, &str); 11] = [
    ("headcount::counter::exchange", "headcount_rpc::messages"),
    ("headcount::log::amqp", "headcount_log_amqp"),
    ("headcount::client", "headcount_client"),
    ("headcount::coordinator", "headcount_coordinator"),
    ("headcount::counter", "headcount_counter"),
    ("headcount::http", "headcount_http"),
    ("headcount::log", "headcount_log"),
    ("headcount::model", "headcount_model"),
    ("headcount::socket", "headcount_net"),
    ("headcount::store", "headcount_store"),
    ("headcount::supervisor", "headcount_runtime::supervisor"),
];

/// Rewrites a directive for a former module to the crate that replaced it.
fn renamed(directive: &str) -> String {
    let found = RENAMED
        .iter()
        .find_map(|(from, to)| Some((to, directive.strip_prefix(from)?)));
    match found {
        Some((to, rest)) => format!("{to}{rest}"),
        None => directive.to_owned(),
    }
}

/// Parses a filter in the syntax of `EnvFilter`. A directive without `=` or `[` must be a level. If
/// no such level is given, `default` applies to everything that no other directive names.
pub(super) fn parse(text: &str, default: &str) -> Option<EnvFilter> {
    let directives: Vec<String> = text
        .split(',')
        .map(str::trim)
        .filter(|directive| !directive.is_empty())
        .map(renamed)
        .collect();
    let is_word = |directive: &&String| !directive.contains(['=', '[']);
    let (words, others): (Vec<&String>, Vec<&String>) = directives.iter().partition(is_word);
    let are_right = !directives.is_empty()
        && words.iter().all(|word| word.parse::<LevelFilter>().is_ok())
        && others
            .iter()
            .all(|other| other.parse::<Directive>().is_ok());
    let all = match words.is_empty() {
        true => default,
        false => "",
    };
    are_right
        .then(|| format!("{all},{}", directives.join(",")))
        .and_then(|filter| EnvFilter::try_new(filter.trim_start_matches(',')).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The directives of a parsed filter, sorted.
    fn shown(text: &str) -> Option<Vec<String>> {
        let filter = parse(text, "info")?.to_string();
        let mut parts: Vec<String> = filter.split(',').map(str::to_owned).collect();
        parts.sort();
        Some(parts)
    }

    #[test]
    fn a_word_alone_is_a_level() {
        for (text, level) in [
            ("warn", "warn"),
            ("DEBUG", "debug"),
            ("off", "off"),
            (" trace ", "trace"),
        ] {
            assert_eq!(shown(text), Some(vec![level.to_owned()]), "{text}");
        }
        for text in [
            "",
            ",",
            "warning",
            "err",
            "verbose",
            "headcount",
            "info,headcount",
            "=",
            "a=b",
            "a=warning",
        ] {
            assert!(parse(text, "info").is_none(), "{text}");
        }
    }

    #[test]
    fn without_a_level_for_all_the_default_stays() {
        for (text, parts) in [
            ("headcount=debug", &["headcount=debug", "info"][..]),
            (
                "warn, headcount::http::front=debug",
                &["headcount_http::front=debug", "warn"],
            ),
            (
                "headcount::log=debug,headcount::log::amqp=trace",
                &["headcount_log=debug", "headcount_log_amqp=trace", "info"],
            ),
            ("headcount=debug,error,", &["error", "headcount=debug"]),
            ("[a{b=1}]=debug", &["[a{b=1}]=debug", "info"]),
        ] {
            let parts = parts.iter().map(|&part| part.to_owned()).collect();
            assert_eq!(shown(text), Some(parts), "{text}");
        }
    }
}
