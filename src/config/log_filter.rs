//! What is logged: a level for all, and others for modules.
//!
//! Invariant: a word that is no level silences nothing: it is refused, and what no level is given
//! for keeps the default.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};

/// Reads a filter in the syntax of `EnvFilter`, in which a word alone must be a level; without such
/// a word, `default` is the level of what nothing else names.
pub(super) fn parse(text: &str, default: &str) -> Option<EnvFilter> {
    let directives: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|directive| !directive.is_empty())
        .collect();
    let is_word = |directive: &&str| !directive.contains(['=', '[']);
    let (words, others): (Vec<&str>, Vec<&str>) =
        directives.iter().partition(|directive| is_word(directive));
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

    /// The parts of a filter as it shows itself, in order of their text.
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
                "warn, headcount::http=debug",
                &["headcount::http=debug", "warn"],
            ),
            ("headcount=debug,error,", &["error", "headcount=debug"]),
            ("[a{b=1}]=debug", &["[a{b=1}]=debug", "info"]),
        ] {
            let parts = parts.iter().map(|&part| part.to_owned()).collect();
            assert_eq!(shown(text), Some(parts), "{text}");
        }
    }
}
