//! Access checks by `Origin` and `Host`. Pages of other origins are rejected unless the settings
//! name their origin. A service that listens only on loopback rejects host names of other machines.
//!
//! Invariant: a request is processed only after it has passed these checks. Browsers add `Origin`
//! to every request that a page of another host sends (Fetch, §3.2), and send the name that they
//! resolved as `Host`. So a page can hide neither its origin nor that a name of its own resolves to
//! this service (DNS rebinding).

use std::net::IpAddr;

use axum::http::{HeaderValue, StatusCode, Version};

use super::error::Problem;
use super::heads::Heads;

/// The setting that allows every origin or every host.
const ANY: &str = "*";
/// The name of the own machine; names below it are too (RFC 6761 §6.3).
const LOCALHOST: &str = "localhost";
/// The scheme of this service's own origin: the service has no TLS.
const HTTP: &str = "http://";
/// The port of an origin or a host without a port.
const HTTP_PORT: u16 = 80;

/// Origins and hosts that operators allow in addition to the service's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessLimits {
    /// Origins whose pages may send requests, such as `https://app.example`; `*` allows all.
    pub cors_origins: Vec<String>,
    /// Host names that a service that listens only on loopback accepts; `*` allows all.
    pub hosts: Vec<String>,
}

/// The allowed foreign origin of a request, if it has one. The response must name it.
pub(super) type Foreign = Option<HeaderValue>;

impl AccessLimits {
    /// Checks a request. `is_local` says whether the service listens only on loopback.
    pub(super) fn check(
        &self,
        heads: &Heads<'_>,
        version: Version,
        is_local: bool,
    ) -> Result<Foreign, Problem> {
        let host = the_host(heads, version)?;
        if is_local && host.is_some_and(|host| !self.leads_here(host)) {
            return Err(Problem::foreign_host());
        }
        let Some(origin) = heads.origin else {
            return Ok(None);
        };
        let text = origin.to_str().unwrap_or_default();
        if host.is_some_and(|host| is_own(text, host)) {
            return Ok(None);
        }
        let mut allowed = self.cors_origins.iter();
        match allowed.any(|allowed| allowed == ANY || allowed.eq_ignore_ascii_case(text)) {
            true => Ok(Some(origin.clone())),
            false => Err(Problem::foreign_origin()),
        }
    }

    /// Whether a service that listens only on loopback accepts this host name. A name without a dot
    /// cannot be one that an attacker has registered.
    fn leads_here(&self, host: &str) -> bool {
        let (name, _) = split_port(host);
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
        let bare = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let is_under_localhost = || {
            let (_, last) = name.rsplit_once('.').unwrap_or_default();
            last.eq_ignore_ascii_case(LOCALHOST)
        };
        let is_named = || {
            let mut hosts = self.hosts.iter();
            hosts.any(|named| named == ANY || named.eq_ignore_ascii_case(name))
        };
        !name.contains('.')
            || is_address(bare.unwrap_or(name))
            || is_under_localhost()
            || is_named()
    }
}

/// Returns the only header `Host` of a request (RFC 9112 §3.2).
fn the_host<'h>(heads: &Heads<'h>, version: Version) -> Result<Option<&'h str>, Problem> {
    match heads.host {
        Some(_) if heads.has_more_hosts => Err(Problem::invalid_host("It occurs more than once.")),
        None if version == Version::HTTP_11 => Err(Problem::invalid_host("It is missing.")),
        None => Ok(None),
        Some(host) => match host.to_str() {
            Ok(host) => Ok(Some(host)),
            Err(_) => Err(Problem::invalid_host("It is not ASCII.")),
        },
    }
}

/// Whether an origin is the service's own: its scheme, host and port are those of the service,
/// which `host` names (RFC 6454 §4).
fn is_own(origin: &str, host: &str) -> bool {
    let scheme = origin.get(..HTTP.len());
    let Some(place) = origin.get(HTTP.len()..) else {
        return false;
    };
    let ((theirs, their_port), (ours, our_port)) = (split_port(place), split_port(host));
    let port = |port: &str| match port {
        "" => Some(HTTP_PORT),
        port => port.parse().ok(),
    };
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(HTTP))
        && theirs.eq_ignore_ascii_case(ours)
        && port(their_port).is_some_and(|theirs| port(our_port) == Some(theirs))
}

/// Splits a host into name and port; the port is empty if there is none.
fn split_port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        // In an IPv6 address without a port, the last colon is part of the address.
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, ""),
    }
}

impl Problem {
    pub(super) fn only_probes() -> Self {
        Self::unavailable(
            "overloaded",
            "Too much is waiting",
            "The limit of open connections is reached. The request was not processed. Retry it.",
        )
    }

    fn invalid_host(detail: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid-host",
            "The header Host is not valid",
            format!(
                "{detail} An HTTP/1.1 request must have exactly one header Host, with the name and \
                 port that it is sent to."
            ),
        )
    }

    fn foreign_host() -> Self {
        Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            "foreign-host",
            "The host's name is not one of this service",
            "The service listens only on a loopback address. It accepts requests to localhost, to \
             an IP address, or to a name without a dot. If it is meant to be reached by this name, \
             for example through a proxy, add the name to the setting hosts.",
        )
    }

    fn foreign_origin() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "foreign-origin",
            "Pages of this origin may not ask",
            "The header Origin names a page of another scheme, host or port. To let pages of that \
             origin read and post here, add it to the setting cors-origins.",
        )
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    fn checked(access: &AccessLimits, pairs: &[(&'static str, &str)]) -> Result<Foreign, u16> {
        let checked = access.check(&Heads::of(&headers(pairs)), Version::HTTP_11, true);
        checked.map_err(|problem| problem.status())
    }

    #[test]
    fn names_of_other_hosts_do_not_lead_to_a_service_for_its_own_machine() {
        let access = AccessLimits {
            hosts: vec!["counts.internal".into()],
            ..AccessLimits::default()
        };
        for host in [
            "localhost",
            "LOCALHOST:3000",
            "localhost.",
            "127.0.0.1:3000",
            "[::1]:3000",
            "[::1]",
            "10.0.0.7",
            "headcount:80",
            "app.localhost:3000",
            "counts.internal",
            "Counts.Internal:3000",
            "counts.internal.",
        ] {
            assert_eq!(checked(&access, &[("host", host)]), Ok(None), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:3000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "counts.internal.evil.example",
        ] {
            assert_eq!(checked(&access, &[("host", host)]), Err(421), "{host}");
            let anybody = access.check(
                &Heads::of(&headers(&[("host", host)])),
                Version::HTTP_11,
                false,
            );
            assert!(anybody.is_ok(), "not limited to loopback");
        }
        let any = AccessLimits {
            hosts: vec![ANY.into()],
            ..AccessLimits::default()
        };
        assert_eq!(checked(&any, &[("host", "evil.example")]), Ok(None));
    }

    #[test]
    fn a_request_has_one_host() {
        let access = AccessLimits::default();
        assert_eq!(checked(&access, &[]), Err(400));
        assert_eq!(checked(&access, &[("host", "a"), ("host", "a")]), Err(400));
        let older = access.check(&Heads::default(), Version::HTTP_10, true);
        assert!(older.is_ok(), "HTTP/1.0 has no Host");
    }

    #[test]
    fn only_pages_of_the_service_and_of_named_origins_may_ask() {
        let access = AccessLimits {
            cors_origins: vec!["https://app.example".into()],
            ..AccessLimits::default()
        };
        let from = |origin: &str, host| checked(&access, &[("origin", origin), ("host", host)]);
        for (origin, host) in [
            ("http://localhost:3000", "localhost:3000"),
            ("http://LocalHost", "localhost:80"),
            ("http://localhost:80", "localhost"),
            ("http://[::1]:3000", "[::1]:3000"),
        ] {
            assert_eq!(from(origin, host), Ok(None), "{origin}");
        }
        for (origin, host) in [
            ("null", "localhost"),
            ("", "localhost"),
            ("https://localhost:3000", "localhost:3000"),
            ("http://localhost:3001", "localhost:3000"),
            ("http://localhost", "localhost:3000"),
            ("http://127.0.0.1:3000", "localhost:3000"),
            ("https://evil.example", "localhost"),
            ("https://app.example.evil.example", "localhost"),
            ("http://app.example", "localhost"),
        ] {
            assert_eq!(from(origin, host), Err(403), "{origin}");
        }
        let foreign = from("https://app.example", "localhost").expect("named");
        assert_eq!(foreign.expect("foreign"), "https://app.example");
        let any = AccessLimits {
            cors_origins: vec![ANY.into()],
            ..AccessLimits::default()
        };
        let foreign = checked(&any, &[("origin", "null"), ("host", "localhost")]);
        assert!(foreign.expect("any").is_some());
    }
}
