//! The target of the requests: the parts of a plain `http://` URL, or of `unix:/path`.
//!
//! Invariant: the parts can be written into the head of a request unchanged.

use std::path::PathBuf;

use super::BenchError;
use crate::socket::SocketPlace;

/// Port of a URL without one.
const PORT_DEFAULT: u16 = 80;

/// The address of a coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) host: Host,
    /// Value of the `Host` header.
    pub(super) authority: String,
    /// Path before `/items`: empty, or a prefix that a proxy removes.
    pub(super) base: String,
}

/// What to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Named {
        /// A name or an address; an IPv6 address without brackets.
        name: String,
        port: u16,
    },
    Socket(PathBuf),
}

impl Target {
    /// Parses a URL.
    pub(super) fn parse(url: &str) -> Result<Self, BenchError> {
        Self::parts(url).ok_or_else(|| BenchError::Url(url.to_owned()))
    }

    fn parts(url: &str) -> Option<Self> {
        if let Ok(SocketPlace::Unix(path)) = url.parse() {
            return Some(Self {
                host: Host::Socket(path),
                authority: "localhost".to_owned(),
                base: String::new(),
            });
        }
        let rest = url.strip_prefix("http://")?;
        let plain = |c: char| c.is_ascii_graphic() && !"?#@\"<>\\".contains(c);
        if !rest.chars().all(plain) {
            return None;
        }
        let (authority, base) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        // The colons of an IPv6 address are inside brackets.
        let (name, port) = match authority.strip_prefix('[') {
            Some(inside) => inside.split_once(']')?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port {
            "" => PORT_DEFAULT,
            _ => port.strip_prefix(':')?.parse().ok()?,
        };
        (!name.is_empty()).then(|| Self {
            host: Host::Named {
                name: name.to_owned(),
                port,
            },
            authority: authority.to_owned(),
            base: base.trim_end_matches('/').to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, host, port, authority, base) in [
            (
                "http://127.0.0.1:3000",
                "127.0.0.1",
                3000,
                "127.0.0.1:3000",
                "",
            ),
            ("http://a.example/", "a.example", 80, "a.example", ""),
            ("http://a:81/x/y/", "a", 81, "a:81", "/x/y"),
            ("http://[::1]:3000", "::1", 3000, "[::1]:3000", ""),
            ("http://[::1]", "::1", 80, "[::1]", ""),
        ] {
            let target = Target::parse(url).expect(url);
            let named = Host::Named {
                name: host.to_owned(),
                port,
            };
            assert_eq!(target.host, named);
            assert_eq!(target.authority, authority);
            assert_eq!(target.base, base);
        }
    }

    #[test]
    fn a_path_is_a_socket() {
        let target = Target::parse("unix:/run/a").expect("a target");
        assert_eq!(target.host, Host::Socket("/run/a".into()));
        assert_eq!((&*target.authority, &*target.base), ("localhost", ""));
    }

    #[test]
    fn what_is_no_plain_url_is_refused() {
        for url in [
            "",
            "unix:a",
            "nonsense",
            "https://a",
            "http://",
            "http://:80",
            "http://a:",
            "http://a:x",
            "http://a:70000",
            "http://u:p@a",
            "http://a?x=1",
            "http://a/#x",
            "http://a b",
            "http://[::1",
            "http://a\r\nX: y",
        ] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }
}
