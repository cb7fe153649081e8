//! A client of RabbitMQ's management API. It reads which nodes of the broker run, and which of them
//! have members of a queue; AMQP 0-9-1 reports neither.
//!
//! Invariant: the client only reads; a lookup is bounded in time and memory; a password is sent
//! only to the address that it was configured with.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::{Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use headcount_client::cause;
use headcount_model::is_unambiguous;

/// The limit on connecting to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The limit on a lookup at one address.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes of one response: enough for a hundred nodes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The status codes that report a wrong request.
const UNAUTHORIZED: u16 = 401;
const NOT_FOUND: u16 = 404;

/// The URL of the management API and the user to log in: `http://user:password@host:15672`, or
/// `https://`.
#[derive(Clone, PartialEq, Eq)]
pub struct ManagementUrl {
    /// Without user and password.
    base: Url,
    user: String,
    password: String,
}

/// A text is not a URL of the management API. The error never repeats the text, which may contain a
/// password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "not of the form http://user:password@host:15672 (or https://…), with every character of user \
     and password that is neither a letter nor a digit percent-encoded"
)]
pub struct ManagementUrlError;

impl FromStr for ManagementUrl {
    type Err = ManagementUrlError;

    fn from_str(text: &str) -> Result<Self, ManagementUrlError> {
        let mut base = Url::parse(text.trim()).map_err(|_| ManagementUrlError)?;
        let is_plain = is_unambiguous(text)
            && matches!(base.scheme(), "http" | "https")
            && base.query().is_none()
            && base.fragment().is_none();
        if !is_plain || base.username().is_empty() {
            return Err(ManagementUrlError);
        }
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = decoded(base.username());
        let password = decoded(base.password().unwrap_or_default());
        let cleared = base.set_username("").and(base.set_password(None));
        cleared.map_err(|()| ManagementUrlError)?;
        // Without the trailing slash, `join` would replace the last segment of the path.
        let path = format!("{}/", base.path().trim_end_matches('/'));
        base.set_path(&path);
        Ok(Self {
            base,
            user,
            password,
        })
    }
}

impl fmt::Display for ManagementUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, port) = (self.base.scheme(), self.base.port_or_known_default());
        let host = self.base.host_str().unwrap_or_default();
        let (user, port) = (&self.user, port.unwrap_or_default());
        write!(f, "{scheme}://{user}:***@{host}:{port}")
    }
}

impl fmt::Debug for ManagementUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a lookup failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManagementError {
    /// TLS setup failed.
    #[error("TLS setup failed: {0}")]
    Setup(String),
    /// The client has no address.
    #[error("no address of the management API is configured")]
    NoAddress,
    /// An address gave no response in time, or an unusable one.
    #[error("{url}: {detail}")]
    NoAnswer {
        /// The address, without its password.
        url: String,
        /// The fault.
        detail: String,
    },
}

/// The state of a node of the broker.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NodeState {
    /// Its name, such as `rabbit@host`.
    pub name: String,
    /// Whether it runs, according to the queried node.
    #[serde(default)]
    pub running: bool,
}

/// The state of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct QueueState {
    /// `quorum`, `classic`…; empty if the response has no type.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// The nodes with a member of the queue; empty for a classic queue, which has no members.
    #[serde(default)]
    pub members: Vec<String>,
    /// The members that are online.
    #[serde(default)]
    pub online: Vec<String>,
}

/// The result of one lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The nodes of the broker.
    pub nodes: Vec<NodeState>,
    /// The queues in the requested order; none for a queue that does not exist.
    pub queues: Vec<Option<QueueState>>,
}

/// A client of the management API of one broker.
#[derive(Debug, Clone)]
pub struct ManagementClient {
    http: reqwest::Client,
    urls: Vec<ManagementUrl>,
}

impl ManagementClient {
    /// A client that uses the first of `urls` that responds. For `https://` it trusts
    /// `authorities`, certificates in PEM, in addition to the system's.
    ///
    /// # Errors
    /// When TLS setup fails.
    pub fn new(
        urls: Vec<ManagementUrl>,
        authorities: Option<&str>,
    ) -> Result<Self, ManagementError> {
        // If another provider is already installed, that one serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let setup = |error: reqwest::Error| ManagementError::Setup(cause(&error));
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // Lookups are rare: the server would close a pooled connection before its next use.
            .pool_max_idle_per_host(0)
            // The password must not reach a host that a redirect or the environment names.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none());
        if let Some(pem) = authorities {
            let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes());
            builder = builder.tls_certs_merge(certificates.map_err(setup)?);
        }
        let http = builder.build().map_err(setup)?;
        Ok(Self { http, urls })
    }

    /// Reads the states of the broker's nodes, and of these queues of a virtual host.
    ///
    /// # Errors
    /// The error of the last address, when all addresses failed.
    pub async fn look(&self, vhost: &str, queues: &[String]) -> Result<Look, ManagementError> {
        let mut last = ManagementError::NoAddress;
        for url in &self.urls {
            let looked = tokio::time::timeout(LOOK_TIMEOUT, self.look_at(url, vhost, queues));
            let detail = match looked.await {
                Ok(Ok(look)) => return Ok(look),
                Ok(Err(detail)) => detail,
                Err(_) => format!("no response within {} s", LOOK_TIMEOUT.as_secs()),
            };
            last = ManagementError::NoAnswer {
                url: url.to_string(),
                detail,
            };
        }
        Err(last)
    }

    async fn look_at(
        &self,
        url: &ManagementUrl,
        vhost: &str,
        queues: &[String],
    ) -> Result<Look, String> {
        let nodes = self.get(url, "api/nodes?columns=name,running").await?;
        let nodes = nodes.ok_or("there is no management API at this address")?;
        let mut states = Vec::with_capacity(queues.len());
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        for queue in queues {
            let path = format!(
                "api/queues/{}/{}?columns=type,members,online",
                encoded(vhost),
                encoded(queue)
            );
            states.push(self.get(url, &path).await?);
        }
        Ok(Look {
            nodes,
            queues: states,
        })
    }

    /// Requests `path`; none if it does not exist.
    async fn get<A: DeserializeOwned>(
        &self,
        url: &ManagementUrl,
        path: &str,
    ) -> Result<Option<A>, String> {
        let at = url.base.join(path).map_err(|error| error.to_string())?;
        let request = self.http.get(at).basic_auth(&url.user, Some(&url.password));
        // Without the error's own text, which contains the URL.
        let response = request.send().await.map_err(|error| cause(&error))?;
        match response.status().as_u16() {
            200 => {}
            NOT_FOUND => return Ok(None),
            UNAUTHORIZED => {
                return Err(
                    "the management API refuses the user or the password; the user needs the tag \
                     monitoring"
                        .to_owned(),
                );
            }
            status => return Err(format!("unexpected status {status}")),
        }
        let body = gather(response).await?;
        let answer = serde_json::from_slice(&body);
        answer.map_err(|error| format!("the response is not from a management API: {error}"))
    }
}

/// Reads a body up to [`ANSWER_BYTES_MAX`].
async fn gather(mut response: Response) -> Result<Bytes, String> {
    let mut body = BytesMut::new();
    while let Some(part) = response.chunk().await.map_err(|error| cause(&error))? {
        if body.len() + part.len() > ANSWER_BYTES_MAX {
            return Err("the response is too long".to_owned());
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let url: ManagementUrl = "https://me:s3cret%2f@broker:15671/rabbit"
            .parse()
            .expect("valid");
        assert_eq!(url.to_string(), "https://me:***@broker:15671");
        assert_eq!(format!("{url:?}"), url.to_string());
        assert_eq!(url.password, "s3cret/");
        assert_eq!(url.base.as_str(), "https://broker:15671/rabbit/");
        for bad in [
            "amqp://me:s3cret@broker",
            "http://broker:15672",
            "me:s3cret@broker",
            "http://me:s3cret@broker:port/",
            "http://me:s3cret@broker/?a=s3cret",
            "",
        ] {
            let error = bad.parse::<ManagementUrl>().expect_err(bad);
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn what_the_api_leaves_out_is_empty() {
        let quorum = r#"{"type":"quorum","members":["a@h","b@h"],"online":["a@h"]}"#;
        let state: QueueState = serde_json::from_str(quorum).expect("as RabbitMQ sends it");
        assert_eq!(state.members.len(), 2);
        assert_eq!(state.online, ["a@h"]);
        let classic: QueueState = serde_json::from_str(r#"{"type":"classic"}"#).expect("valid");
        assert!(classic.members.is_empty());
        let node: NodeState = serde_json::from_str(r#"{"name":"a@h"}"#).expect("valid");
        assert!(
            !node.running,
            "a node that is down may come without `running`"
        );
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_is_named_without_its_password() {
        let urls = vec!["http://me:s3cret@127.0.0.1:1".parse().expect("valid")];
        let client = ManagementClient::new(urls, None).expect("set up");
        let error = client.look("/", &[]).await.expect_err("nobody listens");
        let text = error.to_string();
        assert!(text.starts_with("http://me:***@127.0.0.1:1: "), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}
