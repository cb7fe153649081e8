//! A client of RabbitMQ's management API: which nodes of the broker run, and on which of them a
//! queue has members. AMQP 0-9-1 tells neither.
//!
//! Invariant: it only reads; a look ends in time and takes no more memory than allowed; a password
//! is shown to the address that it was given with, and to nobody else.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::{Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use headcount_model::is_unambiguous;

/// How long connecting to one address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a look by way of one address may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes of one answer: room for a hundred nodes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The statuses of an answer that says what is wrong with the question.
const UNAUTHORIZED: u16 = 401;
const NOT_FOUND: u16 = 404;

/// Where the management API is and how to log in: `http://user:password@host:15672`, or `https://`.
#[derive(Clone, PartialEq, Eq)]
pub struct ManagementUrl {
    /// Without the user.
    base: Url,
    user: String,
    password: String,
}

/// A text is no address of the management API. It is never repeated: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "not of the form http://user:password@host:15672 (or https://…), with what is neither letter nor digit of user and password percent-encoded"
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
        // Without the slash at its end, the last part of the path would be replaced.
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

/// Why the management API told nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManagementError {
    /// The client can't be set up.
    #[error("TLS can't be set up: {0}")]
    Setup(String),
    /// No address was given.
    #[error("no address is given")]
    NoAddress,
    /// An address gave no answer in time, or none that can be used.
    #[error("{url}: {detail}")]
    NoAnswer {
        /// The address, without its password.
        url: String,
        /// What is wrong.
        detail: String,
    },
}

/// A node of the broker.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NodeState {
    /// Its name, such as `rabbit@host`.
    pub name: String,
    /// Whether it runs, as the asked node sees it.
    #[serde(default)]
    pub running: bool,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct QueueState {
    /// `quorum`, `classic`…; empty where it is not told.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// The nodes on which it has members; empty where it has none, as a classic queue.
    #[serde(default)]
    pub members: Vec<String>,
    /// Those of them that answer.
    #[serde(default)]
    pub online: Vec<String>,
}

/// What one look has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The broker's nodes.
    pub nodes: Vec<NodeState>,
    /// The queues in the order asked for; none where one is not there.
    pub queues: Vec<Option<QueueState>>,
}

/// A client of the management API of one broker.
#[derive(Debug, Clone)]
pub struct ManagementClient {
    http: reqwest::Client,
    urls: Vec<ManagementUrl>,
}

impl ManagementClient {
    /// A client that asks the first of `urls` that answers, and trusts `authorities`, certificates
    /// in PEM, at `https://` beside the system's.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn new(
        urls: Vec<ManagementUrl>,
        authorities: Option<&str>,
    ) -> Result<Self, ManagementError> {
        // A provider that is installed already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let setup = |error: reqwest::Error| ManagementError::Setup(cause(&error));
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // Asked seldom: a connection that is kept would only be found closed.
            .pool_max_idle_per_host(0)
            // The password is for nobody that a redirect or the environment might name.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none());
        if let Some(pem) = authorities {
            let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes());
            builder = builder.tls_certs_merge(certificates.map_err(setup)?);
        }
        let http = builder.build().map_err(setup)?;
        Ok(Self { http, urls })
    }

    /// Asks for the broker's nodes, and for these queues of a virtual host.
    ///
    /// # Errors
    /// What the last address said, when none tells.
    pub async fn look(&self, vhost: &str, queues: &[String]) -> Result<Look, ManagementError> {
        let mut last = ManagementError::NoAddress;
        for url in &self.urls {
            let looked = tokio::time::timeout(LOOK_TIMEOUT, self.look_at(url, vhost, queues));
            let detail = match looked.await {
                Ok(Ok(look)) => return Ok(look),
                Ok(Err(detail)) => detail,
                Err(_) => format!("no answer within {} s", LOOK_TIMEOUT.as_secs()),
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
        let nodes = nodes.ok_or("it has no management API")?;
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

    /// What is at `path`; none when nothing is.
    async fn get<A: DeserializeOwned>(
        &self,
        url: &ManagementUrl,
        path: &str,
    ) -> Result<Option<A>, String> {
        let at = url.base.join(path).map_err(|error| error.to_string())?;
        let request = self.http.get(at).basic_auth(&url.user, Some(&url.password));
        // Its text would name the address that was asked.
        let response = request.send().await.map_err(|error| cause(&error))?;
        match response.status().as_u16() {
            200 => {}
            NOT_FOUND => return Ok(None),
            UNAUTHORIZED => {
                return Err(
                    "it refuses the user or its password; the user needs the tag monitoring"
                        .to_owned(),
                );
            }
            status => return Err(format!("it answers {status}")),
        }
        let body = gather(response).await?;
        let answer = serde_json::from_slice(&body);
        answer.map_err(|error| format!("its answer is not that of a management API: {error}"))
    }
}

/// Reads a body of bounded length.
async fn gather(mut response: Response) -> Result<Bytes, String> {
    let mut body = BytesMut::new();
    while let Some(part) = response.chunk().await.map_err(|error| cause(&error))? {
        if body.len() + part.len() > ANSWER_BYTES_MAX {
            return Err("its answer is too long".to_owned());
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

/// The error's cause, which says more than that a request failed.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
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
        let state: QueueState = serde_json::from_str(quorum).expect("as RabbitMQ tells it");
        assert_eq!(state.members.len(), 2);
        assert_eq!(state.online, ["a@h"]);
        let classic: QueueState = serde_json::from_str(r#"{"type":"classic"}"#).expect("valid");
        assert!(classic.members.is_empty());
        let node: NodeState = serde_json::from_str(r#"{"name":"a@h"}"#).expect("valid");
        assert!(
            !node.running,
            "a node that is down may be told without more"
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
