//! Parses the parameters in paths and query strings.
//!
//! Invariant: an invalid parameter is rejected with its name, and its value is never guessed. That
//! includes an unknown parameter, bytes that are not UTF-8, a value out of range, and a repeated
//! single-valued parameter. Invalid percent-encoding is rejected. Routes without parameters ignore
//! the query string.

use std::borrow::Cow;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::error::Problem;
use headcount_coordinator::{Consistency, ReadOptions};
use headcount_model::{Partition, Partitioning, TenantName, Token, is_percent_encoded};

/// The default of `timeout_ms`.
pub(crate) const TIMEOUT_MS_DEFAULT: u64 = 5_000;
/// The maximum of `timeout_ms`.
pub(crate) const TIMEOUT_MS_MAX: u64 = 30_000;

/// The parameters of `POST /items`.
pub(crate) const POST_PARAMS: &[&str] = &["partial"];
/// The parameters of `GET /items/{tenant}/count`, which are the options of every read.
pub(crate) const COUNT_PARAMS: &[&str] = &["after", "consistency", "timeout_ms"];
/// The parameters of `GET /items/{tenant}/ids/{id}`.
pub(crate) const ITEM_PARAMS: &[&str] = COUNT_PARAMS;
/// The parameters of `GET /counts`.
pub(crate) const COUNTS_PARAMS: &[&str] = &["tenant", "after", "consistency", "timeout_ms"];
/// The parameters of `GET /tenants`.
pub(crate) const TENANTS_PARAMS: &[&str] = &[
    "prefix",
    "limit",
    "cursor",
    "after",
    "consistency",
    "timeout_ms",
];

/// Maximum number of characters of an unknown parameter's name that are compared and reported.
const UNKNOWN_CHARS_MAX: usize = 64;

/// The decoded query parameters of a request, in their order.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a query string (`application/x-www-form-urlencoded`).
    pub(crate) fn parse(raw: &str) -> Result<Self, Problem> {
        if !is_percent_encoded(raw) {
            return Err(Problem::invalid_parameter(
                "The query string has a % that is not followed by two hexadecimal digits. Encode a \
                 % as %25.",
            ));
        }
        let decode = |text: &str| {
            let text = text.replace('+', " ");
            percent_decode_str(&text)
                .decode_utf8()
                .map(|text| text.into_owned())
                .map_err(|_| Problem::invalid_parameter("The decoded query string is not UTF-8."))
        };
        let pairs = raw.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        Ok(Self(pairs.collect::<Result<_, Problem>>()?))
    }

    /// Rejects all parameters except those in `known`, which must not be empty.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Problem> {
        let mut names = self.0.iter().map(|(name, _)| name.as_str());
        names
            .find(|name| !known.contains(name))
            .map_or(Ok(()), |name| Err(unknown(name, known)))
    }

    /// Returns all values of a parameter.
    pub(crate) fn all<'q>(&'q self, name: &str) -> impl Iterator<Item = &'q str> {
        self.0
            .iter()
            .filter(move |(given, _)| given == name)
            .map(|(_, value)| value.as_str())
    }

    /// Returns the value of a single-valued parameter.
    pub(crate) fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(Problem::invalid_parameter(format!(
                "{name} must not be repeated."
            )));
        }
        Ok(first)
    }

    /// Returns a text of at most `chars_max` characters.
    pub(crate) fn text(&self, name: &str, chars_max: usize) -> Result<Option<&str>, Problem> {
        let text = self.one(name)?;
        if text.is_some_and(|text| text.chars().nth(chars_max).is_some()) {
            let detail = format!("{name} may have at most {chars_max} characters.");
            return Err(Problem::invalid_parameter(detail));
        }
        Ok(text)
    }

    /// Returns a whole number from `min` to `max`.
    pub(crate) fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Problem> {
        let Some(text) = self.one(name)? else {
            return Ok(None);
        };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(Problem::invalid_parameter(format!(
                "{name} must be a whole number from {min} to {max}."
            ))),
        }
    }

    /// Returns the value of a flag; `false` if it is absent.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.one(name)? {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Problem::invalid_parameter(format!(
                "{name} must be true or false."
            ))),
        }
    }

    /// Returns the options of a read: `consistency`, `after` and `timeout_ms`. The token in `after`
    /// may name only partitions of `partitioning`.
    pub(crate) fn read_options(&self, partitioning: Partitioning) -> Result<ReadOptions, Problem> {
        let consistency = match self.one("consistency")? {
            None | Some("session") => Consistency::Session,
            Some("strong") => Consistency::Strong,
            Some("eventual") => Consistency::Eventual,
            Some(_) => {
                let detail = "consistency must be session, strong or eventual.";
                return Err(Problem::invalid_parameter(detail));
            }
        };
        let after = self.one("after")?.map(|text| after(text, partitioning));
        let timeout_ms = self.number("timeout_ms", 0, TIMEOUT_MS_MAX)?;
        Ok(ReadOptions {
            consistency,
            after: after.transpose()?,
            timeout: Duration::from_millis(timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT)),
        })
    }
}

fn unknown(name: &str, known: &[&str]) -> Problem {
    let mut shown: String = name.chars().take(UNKNOWN_CHARS_MAX).collect();
    let lower = shown.to_lowercase();
    let distance = |known: &&&str| strsim::damerau_levenshtein(&lower, known);
    let nearest = known.iter().min_by_key(distance).unwrap_or(&"none");
    if shown.len() < name.len() {
        shown.push('…');
    }
    let all = known.join(", ");
    Problem::invalid_parameter(format!(
        "Unknown parameter {shown:?}. The nearest known parameter is {nearest}. Known parameters: \
         {all}."
    ))
}

/// Decodes a token. A token that names a partition that this cluster does not have is rejected: no
/// counter covers such a partition, so an answer without it would be marked as exact.
fn after(text: &str, partitioning: Partitioning) -> Result<Token, Problem> {
    let refused = |why: String| {
        let detail =
            format!("after is {why}. Pass the token of a response to POST /items unchanged.");
        Problem::invalid_parameter(detail)
    };
    let token = Token::decode(text).map_err(|error| refused(error.to_string()))?;
    let partitions = partitioning.count();
    match token.sequences.iter().find(|(of, _)| of.0 >= partitions) {
        None => Ok(token),
        Some((Partition(of), _)) => Err(refused(format!(
            "a token for partition {of}, but this cluster has {partitions}, numbered from 0"
        ))),
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

/// The path parameters of a request, percent-decoded.
pub(crate) struct PathParams<T>(pub T);

impl<T, S> FromRequestParts<S> for PathParams<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<T>, PathRejection> = Path::from_request_parts(parts, state).await;
        path.map(|Path(params)| Self(params))
            .map_err(|_| path_not_utf8())
    }
}

fn path_not_utf8() -> Problem {
    Problem::invalid_parameter("The decoded path is not UTF-8.")
}

fn path_not_encoded() -> Problem {
    Problem::invalid_parameter(
        "The path has a % that is not followed by two hexadecimal digits. Encode a % as %25.",
    )
}

/// Forwards only requests with a validly percent-encoded path.
pub(crate) async fn check_path(request: Request, next: Next) -> Result<Response, Problem> {
    if !is_percent_encoded(request.uri().path()) {
        return Err(path_not_encoded());
    }
    Ok(next.run(request).await)
}

/// Percent-decodes one segment of a path.
pub(crate) fn path_segment(raw: &str) -> Result<Cow<'_, str>, Problem> {
    if !is_percent_encoded(raw) {
        return Err(path_not_encoded());
    }
    percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| path_not_utf8())
}

/// Parses a tenant from a path or a query string.
pub(crate) fn tenant(text: &str) -> Result<TenantName, Problem> {
    TenantName::new(text)
        .map_err(|error| Problem::invalid_parameter(format!("The tenant {error}.")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use headcount_model::Epoch;

    fn query(raw: &str) -> Query {
        Query::parse(raw).unwrap_or_else(|problem| panic!("{raw}: {problem:?}"))
    }

    #[test]
    fn values_are_decoded_and_repeatable() {
        let query = query("tenant=a%2Fb&tenant=c+d&&tenant=%C3%A9&x");
        let tenants: Vec<_> = query.all("tenant").collect();
        assert_eq!(tenants, ["a/b", "c d", "é"]);
        assert_eq!(query.one("x").expect("once"), Some(""));
        assert!(query.one("tenant").is_err());
        assert!(Query::parse("tenant=%ff").is_err());
    }

    fn refusal(raw: &str, known: &[&str]) -> String {
        let refused = query(raw).only(known).expect_err(raw);
        serde_json::to_string(&refused).expect("JSON")
    }

    #[test]
    fn an_unknown_parameter_is_named_with_the_nearest_known_one() {
        for (raw, name, nearest) in [
            ("consistancy=strong", "consistancy", "consistency"),
            ("timeout_ms=1&Timeout=5", "Timeout", "timeout_ms"),
            ("From=2026-01-01", "From", ""),
            ("=x", "", ""),
            ("AFTER=x", "AFTER", "after"),
        ] {
            let told = refusal(raw, COUNT_PARAMS);
            let named = serde_json::to_string(&format!("Unknown parameter {name:?}."));
            let named = named.expect("JSON");
            assert!(told.contains(named.trim_matches('"')), "{told}");
            assert!(
                told.contains(&format!("The nearest known parameter is {nearest}")),
                "{told}"
            );
            assert!(told.contains("after, consistency, timeout_ms."), "{told}");
        }
        let long = refusal(&"x".repeat(60_000), POST_PARAMS);
        assert!(long.len() < 400, "{long}");
        assert!(
            query("tenant=a&tenant=b&after=x")
                .only(COUNTS_PARAMS)
                .is_ok()
        );
        assert!(query("").only(POST_PARAMS).is_ok());
    }

    #[test]
    fn a_flag_is_true_or_false() {
        let flag = |raw| query(raw).flag("partial").ok();
        assert_eq!(flag(""), Some(false));
        assert_eq!(flag("partial=false"), Some(false));
        assert_eq!(flag("partial=true"), Some(true));
        for bad in [
            "partial",
            "partial=1",
            "partial=True",
            "partial=true&partial=true",
        ] {
            assert_eq!(flag(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_percent_sign_begins_the_code_of_a_byte() {
        for good in ["", "abc", "%25", "100%25", "%C3%A9", "a%2fb"] {
            assert!(is_percent_encoded(good), "{good}");
        }
        for bad in ["%", "100%", "%2", "%zz", "%%25", "a%2gb", "%+1", "%é"] {
            assert!(!is_percent_encoded(bad), "{bad}");
            assert!(Query::parse(bad).is_err() && path_segment(bad).is_err());
        }
    }

    #[test]
    fn read_options_have_defaults_and_limits() {
        let options = query("")
            .read_options(Partitioning::SINGLE)
            .expect("defaults");
        assert_eq!(options.consistency, Consistency::Session);
        assert_eq!(options.timeout, Duration::from_secs(5));
        assert!(
            query("timeout_ms=30000&consistency=strong")
                .read_options(Partitioning::SINGLE)
                .is_ok()
        );
        for bad in [
            "timeout_ms=30001",
            "timeout_ms=-1",
            "timeout_ms=%2B5",
            "timeout_ms=",
            "timeout_ms=1&timeout_ms=1",
            "consistency=Strong",
            "consistency=",
            "after=",
            "after=abc",
        ] {
            assert!(
                query(bad).read_options(Partitioning::SINGLE).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_token_of_partitions_that_there_are_not_is_refused() {
        let two = Partitioning::new(2).expect("valid");
        for (partitions, of_one, of_two) in [
            (vec![], true, true),
            (vec![0], true, true),
            (vec![1], false, true),
            (vec![0, 1], false, true),
            (vec![0, 2], false, false),
            (vec![u16::MAX], false, false),
        ] {
            let sequences = partitions.iter().map(|&of| (Partition(of), 1));
            let token = Token {
                epoch: Epoch(7),
                sequences: sequences.collect(),
            };
            let query = query(&format!("after={token}"));
            let allowed = |partitioning| query.read_options(partitioning).is_ok();
            let seen = (allowed(Partitioning::SINGLE), allowed(two));
            assert_eq!(seen, (of_one, of_two), "{partitions:?}");
        }
    }
}
