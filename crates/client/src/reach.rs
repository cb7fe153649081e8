//! Where a node is asked, and by which way.
//!
//! Invariant: what is asked of this machine never goes through a proxy, and no request follows a
//! redirect.

use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{ClientBuilder, Url};

use super::ClientError;
use headcount_net::SocketPlace;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// With a slash at its end, so that paths can be joined to it.
    pub base: Url,
    /// The socket of a node that listens on one.
    pub socket: Option<PathBuf>,
}

impl Reach {
    /// Reads `http://…`, `https://…` or `unix:/path`.
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
        // Without the slash at its end, the last part of a base URL's path would be replaced.
        let base = Url::parse(&format!("{url}/")).map_err(|_| wrong())?;
        match base.scheme() {
            "http" | "https" => Ok(Self { base, socket }),
            _ => Err(wrong()),
        }
    }

    /// A client's builder for this place.
    pub fn client(&self) -> ClientBuilder {
        let builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // A post that is redirected becomes a get, and what it had is lost.
            .redirect(reqwest::redirect::Policy::none());
        match &self.socket {
            Some(path) => builder.unix_socket(path.clone()).no_proxy(),
            None if is_this_machine(self.base.host_str().unwrap_or_default()) => builder.no_proxy(),
            None => builder,
        }
    }
}

/// Whether a URL's host names this machine: no proxy can reach that.
fn is_this_machine(host: &str) -> bool {
    let name = host.trim_end_matches('.');
    if name == "localhost" || name.ends_with(".localhost") {
        return true;
    }
    let address = host.trim_start_matches('[').trim_end_matches(']');
    // Only an own address can be bound to.
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
        // 192.0.2.0/24 is for documentation: nobody has such an address.
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
