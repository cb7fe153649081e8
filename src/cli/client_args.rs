//! Arguments shared by the commands that are clients of a node.
//!
//! Invariant: unless a flag or HEADCOUNT_URL sets the URL, a command addresses the node that the
//! same environment configures.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::{Arg, ArgAction, value_parser};

use crate::socket::SocketPlace;

pub(super) fn url_arg() -> Arg {
    Arg::new("url")
        .long("url")
        .env("HEADCOUNT_URL")
        .value_name("URL")
        .default_value(own_url(std::env::var("HEADCOUNT_LISTEN").ok().as_deref()))
        .help("URL of the coordinator: http://…, https://…, or unix:/path of a socket")
}

/// The URL of a node on this machine that has `listen` in its environment, for example in the same
/// container.
fn own_url(listen: Option<&str>) -> String {
    const DEFAULT: &str = "http://localhost:3000";
    let listen = listen.unwrap_or_default();
    match listen.parse() {
        Ok(place @ SocketPlace::Unix(_)) => place.url(),
        Ok(SocketPlace::Tcp(mut address)) if address.port() != 0 => {
            match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
            SocketPlace::Tcp(address).url()
        }
        _ => DEFAULT.to_owned(),
    }
}

pub(super) fn json_arg(help: &'static str) -> Arg {
    Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help(help)
}

pub(super) fn number_arg(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    min: u64,
    max: u64,
    help: &'static str,
) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(value)
        .default_value(default)
        .value_parser(value_parser!(u64).range(min..=max))
        .help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_this_machine_is_asked_where_its_environment_says_it_listens() {
        for (listen, url) in [
            (None, "http://localhost:3000"),
            (Some(""), "http://localhost:3000"),
            (Some("127.0.0.1:0"), "http://localhost:3000"),
            (Some("0.0.0.0:8080"), "http://127.0.0.1:8080"),
            (Some("[::]:8080"), "http://[::1]:8080"),
            (Some("10.0.0.5:80"), "http://10.0.0.5:80"),
            (Some("unix:/run/a"), "unix:/run/a"),
        ] {
            assert_eq!(own_url(listen), url);
        }
    }
}
