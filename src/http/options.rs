//! What clients say in paths and query strings.
//!
//! Invariant: a parameter that can't be honoured is refused by name, never guessed: bytes that are not
//! UTF-8, a value out of range, a single-valued parameter given twice. Unknown parameters are ignored.

use std::borrow::Cow;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::error::Problem;
use crate::coordinator::{Consistency, ReadOptions};
use crate::model::{Partition, Partitioning, TenantName, Token};

/// The default of `timeout_ms`.
pub const TIMEOUT_MS_DEFAULT: u64 = 5_000;
/// The greatest `timeout_ms`.
pub const TIMEOUT_MS_MAX: u64 = 30_000;

/// A request's query parameters, decoded, in order.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a query string (`application/x-www-form-urlencoded`).
    pub fn parse(raw: &str) -> Result<Self, Problem> {
        let decode = |text: &str| {
            let text = text.replace('+', " ");
            percent_decode_str(&text)
                .decode_utf8()
                .map(|text| text.into_owned())
                .map_err(|_| Problem::invalid_parameter("The query string is not UTF-8."))
        };
        let pairs = raw.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        Ok(Self(pairs.collect::<Result<_, Problem>>()?))
    }

    /// Every value of a parameter.
    pub fn all<'q>(&'q self, name: &str) -> impl Iterator<Item = &'q str> {
        self.0
            .iter()
            .filter(move |(given, _)| given == name)
            .map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that may be given once.
    pub fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(Problem::invalid_parameter(format!(
                "{name} may be given only once."
            )));
        }
        Ok(first)
    }

    /// A text of at most `chars_max` characters.
    pub fn text(&self, name: &str, chars_max: usize) -> Result<Option<&str>, Problem> {
        let text = self.one(name)?;
        if text.is_some_and(|text| text.chars().nth(chars_max).is_some()) {
            let detail = format!("{name} may have at most {chars_max} characters.");
            return Err(Problem::invalid_parameter(detail));
        }
        Ok(text)
    }

    /// A whole number from `min` to `max`.
    pub fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Problem> {
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

    /// How the client wants to read: `consistency`, `after`, `timeout_ms`. A token must be of a cluster split like this.
    pub fn read_options(&self, partitioning: Partitioning) -> Result<ReadOptions, Problem> {
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

/// The token of an answer of this cluster. Partitions that it does not have are nobody's to cover: a token that names one
/// is refused, or an answer without it would be called exact.
fn after(text: &str, partitioning: Partitioning) -> Result<Token, Problem> {
    let refused = |why: String| {
        let detail =
            format!("after is {why}. Give the token of an answer to POST /items as it was.");
        Problem::invalid_parameter(detail)
    };
    let token = Token::decode(text).map_err(|error| refused(error.to_string()))?;
    let partitions = partitioning.count();
    match token.sequences.iter().find(|(of, _)| of.0 >= partitions) {
        None => Ok(token),
        Some((Partition(of), _)) => Err(refused(format!(
            "a token for partition {of}, and this cluster has {partitions}, numbered from 0"
        ))),
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

/// Path parameters, percent-decoded.
pub struct PathParams<T>(pub T);

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
    Problem::invalid_parameter("The path is not UTF-8 once it is percent-decoded.")
}

/// One segment of a path, percent-decoded.
pub fn path_segment(raw: &str) -> Result<Cow<'_, str>, Problem> {
    percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| path_not_utf8())
}

/// A tenant given in a path or a query string.
pub fn tenant(text: &str) -> Result<TenantName, Problem> {
    TenantName::new(text)
        .map_err(|error| Problem::invalid_parameter(format!("The tenant {error}.")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Epoch;

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
