//! Determines the format and the compression of a posted body from its headers.
//!
//! Invariant: a body is parsed only as its headers declare it.

use axum::http::{HeaderMap, HeaderValue, header};

use super::JSON;
use super::error::Problem;
use super::parse::Format;

/// Subtypes of `application` that clients use for NDJSON; none is registered.
const LINES: [&str; 6] = [
    "x-ndjson",
    "ndjson",
    "jsonl",
    "x-jsonl",
    "jsonlines",
    "x-jsonlines",
];

/// The compression of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Packing {
    /// The name of the content coding.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Returns the format of the body, and its compression if any.
pub(crate) fn of(headers: &HeaderMap) -> Result<(Format, Option<Packing>), Problem> {
    let (mut kind, mut is_packed) = (None, false);
    // One pass over the few headers costs less than two look-ups.
    for (name, value) in headers {
        if *name == header::CONTENT_TYPE {
            kind = kind.or(Some(value));
        } else if *name == header::CONTENT_ENCODING {
            is_packed = true;
        }
    }
    let format = format(kind)?;
    let packing = match is_packed {
        true => packing(headers)?,
        false => None,
    };
    Ok((format, packing))
}

/// Returns the format of the body. Without a content type, or with an empty one, it is JSON.
fn format(kind: Option<&HeaderValue>) -> Result<Format, Problem> {
    let Some(value) = kind.filter(|kind| *kind != JSON) else {
        return Ok(Format::Json);
    };
    let text = value.to_str().unwrap_or("not a text");
    let mut parts = text.split(';').map(str::trim);
    let format = named(parts.next().unwrap_or_default());
    let utf8 = parts
        .filter_map(|parameter| parameter.split_once('='))
        .filter(|(name, _)| name.eq_ignore_ascii_case("charset"))
        .all(|(_, charset)| is_utf8(charset.trim_matches('"')));
    format.filter(|_| utf8).ok_or_else(|| {
        Problem::unsupported_media_type(
            "Send application/json (one item or an array) or application/x-ndjson (one item per \
             line), in UTF-8.",
        )
    })
}

fn named(kind: &str) -> Option<Format> {
    if kind.is_empty() || kind.eq_ignore_ascii_case(JSON) {
        return Some(Format::Json);
    }
    let kind = kind.to_ascii_lowercase();
    let (of, subtype) = kind.split_once('/')?;
    if of == "application" && LINES.contains(&subtype) {
        return Some(Format::Ndjson);
    }
    // A type with the suffix `+json` can be parsed as JSON (RFC 6839 §3.1).
    let json = (of == "text" && subtype == "json") || subtype.ends_with("+json");
    json.then_some(Format::Json)
}

fn is_utf8(charset: &str) -> bool {
    let names = ["utf-8", "utf8", "us-ascii"];
    names.iter().any(|name| charset.eq_ignore_ascii_case(name))
}

/// Returns the compression of the body; `None` if it is not compressed.
fn packing(headers: &HeaderMap) -> Result<Option<Packing>, Problem> {
    let values = headers.get_all(header::CONTENT_ENCODING).into_iter();
    let mut packing = None;
    for value in values {
        let codings = value.to_str().unwrap_or("not a text").split(',');
        for coding in codings.map(|coding| coding.trim().to_ascii_lowercase()) {
            let one = match coding.as_str() {
                "" | "identity" => continue,
                "gzip" | "x-gzip" => Packing::Gzip,
                "zstd" => Packing::Zstd,
                _ => return Err(unsupported()),
            };
            if packing.replace(one).is_some() {
                return Err(unsupported());
            }
        }
    }
    Ok(packing)
}

fn unsupported() -> Problem {
    Problem::unsupported_encoding(
        "Send the body uncompressed, or with a single content encoding: gzip or zstd.",
    )
}

#[cfg(test)]
mod tests {
    use super::of as of_headers;
    use super::*;

    fn headers(name: header::HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &value in values {
            headers.append(&name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn bodies_are_taken_for_what_their_types_say() {
        let of = |kind| {
            super::of(&headers(header::CONTENT_TYPE, &[kind]))
                .ok()
                .map(|(format, _)| format)
        };
        for json in [
            "",
            " ",
            "application/json",
            "Application/JSON;charset=UTF-8",
            "application/json; charset=\"utf-8\"; x=y",
            "text/json",
            "application/vnd.acme.items+json",
            "application/problem+JSON ; charset=us-ascii",
        ] {
            assert_eq!(of(json), Some(Format::Json), "{json}");
        }
        for lines in LINES {
            let kind = format!("application/{lines}");
            assert_eq!(named(&kind), Some(Format::Ndjson), "{kind}");
        }
        assert_eq!(
            of("Application/NDJSON; charset=utf-8"),
            Some(Format::Ndjson)
        );
        for other in [
            "text/plain",
            "text/x-ndjson2",
            "application/json-seq",
            "application/json5",
            "application/x-www-form-urlencoded",
            "json",
            "+json",
            "application/json; charset=utf-16",
            ";charset=latin1",
            "nonsense",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
        let bytes = HeaderValue::from_bytes(b"\xff").expect("a value");
        let unreadable = HeaderMap::from_iter([(header::CONTENT_TYPE, bytes)]);
        assert!(of_headers(&unreadable).is_err());
        assert_eq!(
            of_headers(&HeaderMap::new()).ok(),
            Some((Format::Json, None))
        );
    }

    #[test]
    fn bodies_are_packed_once_at_most() {
        let of = |values: &[&'static str]| {
            let of = super::of(&headers(header::CONTENT_ENCODING, values));
            of.ok().map(|(_, packing)| packing)
        };
        for (values, expected) in [
            (&[][..], Some(None)),
            (&[""], Some(None)),
            (&["identity"], Some(None)),
            (&["GZIP"], Some(Some(Packing::Gzip))),
            (&["x-gzip"], Some(Some(Packing::Gzip))),
            (&["identity, zstd"], Some(Some(Packing::Zstd))),
            (&["identity", "gzip"], Some(Some(Packing::Gzip))),
            (&["gzip, gzip"], None),
            (&["gzip", "zstd"], None),
            (&["br"], None),
            (&["deflate"], None),
        ] {
            assert_eq!(of(values), expected, "{values:?}");
        }
    }
}
