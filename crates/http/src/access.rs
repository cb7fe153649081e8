//! Who may ask: pages of other origins may not, unless they are named, and, of a service for its
//! own machine only, names of other hosts may not lead to it.
//!
//! Invariant: nothing of a request is done before this has let it pass. Browsers add `Origin` to
//! whatever a page of another host sends (Fetch, §3.2), and put into `Host` the name that they have
//! resolved, so a page can't hide where it is from, nor that a name of its own was made to lead
//! here (DNS rebinding).

use std::net::IpAddr;

use axum::http::{HeaderValue, StatusCode, Version};

use super::error::Problem;
use super::heads::Heads;

/// Whoever may ask, whatever the name.
const ANY: &str = "*";
/// The name that leads to the own machine, and all names under it (RFC 6761 §6.3).
const LOCALHOST: &str = "localhost";
/// What an origin of this service begins with: it speaks no TLS.
const HTTP: &str = "http://";
/// The port of an origin or a host that names none.
const HTTP_PORT: u16 = 80;

/// What operators allow beyond the service's own pages and names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessLimits {
    /// Origins whose pages may ask, such as `https://app.example`; `*` is any.
    pub cors_origins: Vec<String>,
    /// Names of hosts that may lead to a service which listens on loopback only; `*` is any.
    pub hosts: Vec<String>,
}

/// The origin of another page that may ask, where a request has one: the answer has to name it.
pub(super) type Foreign = Option<HeaderValue>;

impl AccessLimits {
    /// Lets a request pass, or says why not. A service `is_local` while it listens on loopback
    /// only.
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

    /// Whether a host's name may lead to a service for its own machine. A name without a dot can't
    /// be one that somebody else has registered.
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

/// The one `Host` of a request (RFC 9112 §3.2).
fn the_host<'h>(heads: &Heads<'h>, version: Version) -> Result<Option<&'h str>, Problem> {
    match heads.host {
        Some(_) if heads.has_more_hosts => Err(Problem::invalid_host("It has more than one.")),
        None if version == Version::HTTP_11 => Err(Problem::invalid_host("It has none.")),
        None => Ok(None),
        Some(host) => match host.to_str() {
            Ok(host) => Ok(Some(host)),
            Err(_) => Err(Problem::invalid_host("It is not ASCII.")),
        },
    }
}

/// Whether an origin is the service's own, as `host` names that: the same scheme, host and port
/// (RFC 6454 §4).
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

/// A host and its port, empty where it has none.
fn split_port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        // Of an IPv6 address without a port the last colon is a part.
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, ""),
    }
}

impl Problem {
    pub(super) fn only_probes() -> Self {
        Self::unavailable(
            "overloaded",
            "Too much is waiting",
            "As many connections are open as may. Nothing was taken; ask again.",
        )
    }

    fn invalid_host(detail: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid-host",
            "The header Host is not valid",
            format!(
                "{detail} A request by HTTP/1.1 has one header Host, with the name and port that it was sent to."
            ),
        )
    }

    fn foreign_host() -> Self {
        Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            "foreign-host",
            "The host's name is not one of this service",
            "It listens for its own machine only, and takes requests to localhost, to an address, or to a name without a dot. \
             If this name leads to it on purpose, as by a proxy, add the name to the setting hosts.",
        )
    }

    fn foreign_origin() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "foreign-origin",
            "Pages of this origin may not ask",
            "The header Origin names a page of another scheme, host or port. If it may read and post here, add that origin to the \
             setting cors-origins.",
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
            assert!(anybody.is_ok(), "it listens for all");
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
        assert!(older.is_ok(), "HTTP/1.0 knows none");
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
