//! URLs of the broker.
//!
//! Invariant: no text made of a URL contains its password; only connecting uses it.

use std::fmt;
use std::str::FromStr;

use lapin::uri::{AMQPScheme, AMQPUri};
use thiserror::Error;

use headcount_model::is_unambiguous;

/// The address of a broker, and the user to log in: `amqp://user:password@host:port/vhost`, or
/// `amqps://` for TLS.
#[derive(Clone, PartialEq, Eq)]
pub struct AmqpUrl(AMQPUri);

/// Why a text is not a URL of a broker. It never repeats the text, which may contain a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AmqpUrlError {
    /// It does not have the form of such a URL.
    #[error("not of the form amqp://user:password@host:port/vhost (or amqps://…)")]
    Malformed,
    /// It is ambiguous.
    #[error(
        "a character in the user, the password or the virtual host must be percent-encoded: \
         @ as %40, / as %2F, # as %23, ? as %3F, % as %25"
    )]
    Unencoded,
    /// Its host is an IPv6 address in brackets.
    #[error(
        "an IPv6 address in brackets is not supported as the host; use a name from DNS or \
         /etc/hosts"
    )]
    Ipv6,
    /// It has parameters after a `?`.
    #[error("parameters after a ? are not supported; use the options of headcount")]
    Parameters,
}

impl AmqpUrl {
    /// The virtual host.
    #[must_use]
    pub fn vhost(&self) -> &str {
        &self.0.vhost
    }

    pub(super) fn uri(&self) -> &AMQPUri {
        &self.0
    }
}

impl FromStr for AmqpUrl {
    type Err = AmqpUrlError;

    fn from_str(text: &str) -> Result<Self, AmqpUrlError> {
        if !is_unambiguous(text) {
            return Err(AmqpUrlError::Unencoded);
        }
        // The error is replaced because the parser's own messages quote the text.
        let mut uri: AMQPUri = text.trim().parse().map_err(|_| AmqpUrlError::Malformed)?;
        let after_scheme = text.split_once("://").map_or("", |(_, rest)| rest);
        let authority = after_scheme.split(['/', '?', '#']).next().unwrap_or("");
        let host = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        if host.starts_with('[') {
            return Err(AmqpUrlError::Ipv6);
        }
        if host.is_empty() {
            return Err(AmqpUrlError::Malformed);
        }
        if after_scheme.contains('?') {
            return Err(AmqpUrlError::Parameters);
        }
        if uri.vhost.is_empty() {
            uri.vhost = "/".to_owned();
        }
        Ok(Self(uri))
    }
}

impl AmqpUrl {
    /// Host, port and virtual host: where the URL leads, for any user.
    pub(super) fn place(&self) -> (&str, u16, &str) {
        let authority = &self.0.authority;
        (&authority.host, authority.port, &self.0.vhost)
    }
}

impl fmt::Display for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.0.scheme {
            AMQPScheme::AMQP => "amqp",
            AMQPScheme::AMQPS => "amqps",
        };
        let authority = &self.0.authority;
        let vhost = self.0.vhost.replace('/', "%2f");
        let (user, host, port) = (
            &authority.userinfo.username,
            &authority.host,
            authority.port,
        );
        write!(f, "{scheme}://{user}:***@{host}:{port}/{vhost}")
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let url: AmqpUrl = "amqps://me:s3cret%2f@broker:5999/team%2fa"
            .parse()
            .expect("valid");
        assert_eq!(url.to_string(), "amqps://me:***@broker:5999/team%2fa");
        assert_eq!(format!("{url:?}"), url.to_string());
        assert_eq!(url.uri().authority.userinfo.password, "s3cret/");
        for bad in [
            "http://me:s3cret@broker",
            "amqp:me:s3cret",
            "me:s3cret@broker",
            "amqp://me:s3cret@broker:port/",
            "amqp://me:s3cret@[::1]/",
            "amqp://me:s3cret@broker/?heartbeat=3",
            "amqp://",
            "",
        ] {
            let error = bad.parse::<AmqpUrl>().expect_err(bad);
            assert!(!error.to_string().contains("s3cret"), "{error}");
            assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn a_password_that_might_end_the_authority_is_refused() {
        for bad in [
            "amqp://me:12@s3cret@broker",
            "amqp://me:12/s3cret@broker",
            "amqp://me:12#s3cret@broker",
            "amqp://me:12?s3cret@broker",
            "amqp://me:12%s3cret@broker",
        ] {
            let error = bad.parse::<AmqpUrl>().expect_err(bad);
            assert_eq!(error, AmqpUrlError::Unencoded);
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn what_is_left_out_is_the_brokers_default() {
        for text in ["amqp://broker", "amqp://broker/", "amqp://broker/%2f"] {
            let url: AmqpUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), "amqp://guest:***@broker:5672/%2f");
        }
        let address: AmqpUrl = "amqp://127.0.0.1:99/v".parse().expect("valid");
        assert_eq!(address.to_string(), "amqp://guest:***@127.0.0.1:99/v");
    }
}
