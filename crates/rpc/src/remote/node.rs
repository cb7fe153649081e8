//! HTTP between nodes: a client for all nodes, and the address of one.
//!
//! Invariant: every request ends in time, takes no more memory than allowed, and shows the
//! cluster's secret only to the address that it was made for. All requests between nodes may be
//! repeated.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{ClientBuilder, Response, Url};
use serde::Deserialize;

use super::Reach;
use super::{ClientError, cause};
use crate::QueryError;
use crate::messages::{BUSY_PROBLEM, COUNTER_HEADER, Message, STORE_PROBLEM};
use headcount_model::{ClusterSecret, CounterName};
use headcount_runtime::supervisor::Supervisor;

/// Timeout for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an idle connection is kept: less than a server keeps it by default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum idle connections to each node.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// Maximum bytes of a response, except of snapshots: room for a position of half a million epochs.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Maximum bytes of an error response that are read.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;

/// The status of a response that rejects the secret.
const UNAUTHORIZED: u16 = 401;

/// The HTTP client for all other nodes; cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeClient {
    http: reqwest::Client,
    pub(super) supervisor: Supervisor,
}

impl NodeClient {
    /// A client without connections. `supervisor` watches its tasks.
    ///
    /// # Errors
    /// If TLS can't be set up.
    pub fn new(supervisor: &Supervisor) -> Result<Self, ClientError> {
        // An application that uses this crate may already have installed a provider, which is kept.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            http: built(between_nodes())?,
            supervisor: supervisor.clone(),
        })
    }
}

fn between_nodes() -> ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        // Connect to the announced addresses directly: a proxy from the environment is not meant
        // for traffic between nodes, and a redirect must not receive the secret.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
}

fn built(client: ClientBuilder) -> Result<reqwest::Client, ClientError> {
    let built = client.build();
    built.map_err(|error| ClientError::NoAnswer(cause(&error)))
}

/// Why a request failed.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The time is up. A longer wait might have helped.
    TimedOut,
    /// Any other failure.
    Answer(QueryError),
}

impl Failure {
    pub(super) fn unreachable(detail: impl Into<String>) -> Self {
        Self::Answer(QueryError::Unreachable(detail.into()))
    }
}

impl From<Failure> for QueryError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::TimedOut => Self::Unreachable("no response in time".into()),
            Failure::Answer(error) => error,
        }
    }
}

/// A request to send.
#[derive(Debug, Clone)]
pub(super) enum Sent {
    Get,
    Post(Bytes),
}

/// The address of one node, and the headers of requests to it; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Address {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    http: reqwest::Client,
    base: Url,
    name: HeaderValue,
    authorization: Option<HeaderValue>,
}

impl Address {
    pub(super) fn new(
        name: &CounterName,
        url: &str,
        secret: Option<&ClusterSecret>,
        client: &NodeClient,
    ) -> Result<Self, ClientError> {
        let wrong = || ClientError::Url(url.to_owned());
        let Reach { base, socket } = Reach::parse(url)?;
        let http = match socket {
            // A client supports only one socket path.
            Some(path) => built(between_nodes().unix_socket(path))?,
            None => client.http.clone(),
        };
        let authorization = secret.map(|secret| {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {}", secret.reveal())).map_err(|_| {
                    ClientError::Unexpected("the secret is not a valid header value".into())
                })?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self {
            inner: Arc::new(Inner {
                http,
                base,
                name: HeaderValue::from_str(name.as_str()).map_err(|_| wrong())?,
                authorization: authorization.transpose()?,
            }),
        })
    }

    /// Sends a request and reads the response, all within `timeout`.
    pub(super) async fn ask<A: Message>(
        &self,
        path: &str,
        sent: Sent,
        timeout: Duration,
    ) -> Result<A, Failure> {
        let asked = async {
            let response = self.send(path, sent).await?;
            let body = gather(response, ANSWER_BYTES_MAX).await?;
            A::decode(&body).map_err(|error| {
                Failure::unreachable(format!("the response can't be decoded: {error}"))
            })
        };
        tokio::time::timeout(timeout, asked)
            .await
            .map_err(|_| Failure::TimedOut)?
    }

    /// Sends a request. Returns the response once its head has arrived, if it reports success.
    pub(super) async fn send(&self, path: &str, sent: Sent) -> Result<Response, Failure> {
        let inner = &self.inner;
        let url = inner
            .base
            .join(path.trim_start_matches('/'))
            .map_err(|error| Failure::unreachable(error.to_string()))?;
        let request = || {
            let request = match &sent {
                Sent::Get => inner.http.get(url.clone()),
                Sent::Post(body) => inner
                    .http
                    .post(url.clone())
                    .header(CONTENT_TYPE, "application/json")
                    .body(body.clone()),
            };
            let request = request.header(COUNTER_HEADER, inner.name.clone());
            match &inner.authorization {
                Some(value) => request.header(AUTHORIZATION, value.clone()),
                None => request,
            }
        };
        let response = match request().send().await {
            // The node closed the connection, after it was idle for too long or because of a
            // restart, while the request was sent.
            Err(error) if error.is_request() && !error.is_connect() && !error.is_timeout() => {
                request().send().await
            }
            other => other,
        };
        let response = response.map_err(|error| Failure::unreachable(cause(&error)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(response).await)
    }
}

#[derive(Deserialize)]
struct Problem {
    #[serde(rename = "type")]
    kind: String,
    detail: String,
}

async fn refusal(response: Response) -> Failure {
    let status = response.status().as_u16();
    let body = match gather(response, PROBLEM_BYTES_MAX).await {
        Ok(body) => body,
        Err(failure) => return failure,
    };
    let problem: Option<Problem> = serde_json::from_slice(&body).ok();
    match problem {
        Some(problem) if problem.kind == BUSY_PROBLEM => Failure::Answer(QueryError::Busy),
        Some(problem) if problem.kind == STORE_PROBLEM => {
            Failure::Answer(QueryError::Store(problem.detail))
        }
        _ if status == UNAUTHORIZED => {
            Failure::unreachable("it rejects this node's cluster secret")
        }
        Some(problem) => Failure::unreachable(format!("HTTP status {status}: {}", problem.detail)),
        None => Failure::unreachable(format!("HTTP status {status}")),
    }
}

/// Reads a body of at most `bytes_max`.
async fn gather(mut response: Response, bytes_max: usize) -> Result<Bytes, Failure> {
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(part)) if body.len() + part.len() > bytes_max => {
                return Err(Failure::unreachable("the response is too long"));
            }
            Ok(Some(part)) => body.extend_from_slice(&part),
            Ok(None) => return Ok(body.freeze()),
            Err(error) => return Err(Failure::unreachable(cause(&error))),
        }
    }
}
