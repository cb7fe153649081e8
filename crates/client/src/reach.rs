//! The address of a node, and how to connect to it.
//!
//! Invariant: a request to this machine never goes through a proxy, and no request follows a
//! redirect.

use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{ClientBuilder, Url};

use super::ClientError;
use headcount_net::SocketPlace;

/// Timeout of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The address of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The base URL. It ends with a slash, so that paths can be joined to it.
    pub base: Url,
    /// The path of the Unix socket, if the node listens on one.
    pub socket: Option<PathBuf>,
}

impl Reach {
    /// Parses `http://…`, `https://…` or `unix:/path`.
    pub fn parse(text: &str) -> Result<Self, ClientError> {
        let wrong = || ClientError::Url(text.to_owned());
        let socket = match text.parse() {
            Ok(SocketPlace::Unix(path)) => Some(path),
            _ => None,
        };
        let url = match socket {
            Some(_) => "http://localhost",
            None => text.trim_end_matches('/'),
        };
        // Without the final slash, joining would replace the last segment of the path.
        let base = Url::parse(&format!("{url}/")).map_err(|_| wrong())?;
        match base.scheme() {
            "http" | "https" => Ok(Self { base, socket }),
            _ => Err(wrong()),
        }
    }

    /// Returns a builder for clients of this address.
    pub fn client(&self) -> ClientBuilder {
        let builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirect can turn a POST into a GET, which loses its body.
            .redirect(reqwest::redirect::Policy::none());
        match &self.socket {
            Some(path) => builder.unix_socket(path.clone()).no_proxy(),
            None if is_this_machine(self.base.host_str().unwrap_or_default()) => builder.no_proxy(),
            None => builder,
        }
    }
}

/// Whether the host of a URL is this machine. A proxy on another machine could not reach it.
fn is_this_machine(host: &str) -> bool {
    let name = host.trim_end_matches('.');
    if name == "localhost" || name.ends_with(".localhost") {
        return true;
    }
    let address = host.trim_start_matches('[').trim_end_matches(']');
    // Binding succeeds only for addresses of this machine.
    address
        .parse()
        .is_ok_and(|address: IpAddr| address.is_loopback() || UdpSocket::bind((address, 0)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_urls_and_sockets() {
        for (text, base) in [
            ("http://a", "http://a/"),
            ("https://a/b//", "https://a/b/"),
            ("unix:/run/a", "http://localhost/"),
        ] {
            let reach = Reach::parse(text).expect(text);
            assert_eq!(reach.base.as_str(), base);
        }
        for text in [
            "",
            "nonsense",
            "ftp://a",
            "unix:a",
            "unix:",
            "localhost:3000",
        ] {
            assert!(Reach::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn this_machine_is_known_by_its_names_and_addresses() {
        for host in [
            "localhost",
            "localhost.",
            "a.localhost",
            "127.0.0.1",
            "127.8.9.1",
            "[::1]",
            "0.0.0.0",
        ] {
            assert!(is_this_machine(host), "{host}");
        }
        // 192.0.2.0/24 is reserved for documentation; no machine has such an address.
        for host in [
            "",
            "example.org",
            "notlocalhost",
            "192.0.2.1",
            "localhost.example",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}
