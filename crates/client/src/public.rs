//! A client of the public API of a coordinator.
//!
//! Invariant: after a retryable error, the same request can be sent again; no item counts twice.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{RequestBuilder, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::{ClientError, Fault, by_index, no_answer, refusal};
use super::reach::Reach;

/// Timeout of a whole request. It is longer than a coordinator's own limits, so that the
/// coordinator responds first.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout of a health check. It is short because the callers of health checks do not wait long.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of tenants in one request; the limit of the API.
const TENANTS_PER_REQUEST: usize = 1_000;
/// Maximum size of the tenants in one request, in bytes. A request line may have 64 KiB.
const QUERY_BYTES_MAX: usize = 32 * 1024;

/// A request for counts.
#[derive(Debug, Clone, Default)]
pub struct CountsRequest {
    /// The tenants.
    pub tenants: Vec<String>,
    /// `session`, `strong` or `eventual`; the coordinator's default if absent.
    pub consistency: Option<String>,
    /// A token that the counts must cover to be exact.
    pub after: Option<String>,
}

/// A tenant's count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantCount {
    /// The tenant.
    pub tenant: String,
    /// Its count.
    pub count: u64,
    /// Whether the count includes everything that the read requires.
    pub exact: bool,
}

/// A counter that a coordinator knows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CounterItems {
    /// Its name.
    pub name: String,
    /// The number of items that it counts; `None` if it does not answer.
    #[serde(default)]
    pub items: Option<u64>,
}

/// A client of one coordinator; cheap to clone.
#[derive(Debug, Clone)]
pub struct PublicClient {
    http: reqwest::Client,
    items: Url,
    counts: Url,
    base: Url,
}

/// The outcome of a post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// The number of accepted items; all of them are durable.
    pub accepted: u64,
    /// The errors of the items that were not accepted, with the index of their line.
    pub faults: Vec<(usize, String)>,
}

#[derive(Deserialize)]
struct Accepted {
    accepted: u64,
    #[serde(default)]
    errors: Vec<Fault>,
}

#[derive(Deserialize)]
struct Health {
    status: String,
}

#[derive(Deserialize)]
struct Counts {
    counts: Vec<Row>,
    exact: bool,
}

#[derive(Deserialize)]
struct Counters {
    counters: Vec<CounterItems>,
}

#[derive(Deserialize)]
struct Row {
    tenant: String,
    count: u64,
}

impl PublicClient {
    /// Creates a client of the coordinator at `url`.
    ///
    /// # Errors
    /// If `url` is not an HTTP URL.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let reach = Reach::parse(url)?;
        Self::over(&reach, reach.client())
    }

    /// Creates a client that ignores the proxies that the environment names.
    ///
    /// # Errors
    /// If `url` is not an HTTP URL.
    pub fn past_proxies(url: &str) -> Result<Self, ClientError> {
        let reach = Reach::parse(url)?;
        Self::over(&reach, reach.client().no_proxy())
    }

    fn over(reach: &Reach, client: reqwest::ClientBuilder) -> Result<Self, ClientError> {
        // Fails if an application that uses this crate has installed a provider. That one is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = client
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(|error| ClientError::NoAnswer(error.to_string()))?;
        Ok(Self {
            http,
            items: endpoint(&reach.base, "items")?,
            counts: endpoint(&reach.base, "counts")?,
            base: reach.base.clone(),
        })
    }

    /// Posts items in NDJSON. All accepted items are durable. With `partial`, valid items are
    /// accepted even if others are invalid, if the release of the coordinator supports this.
    ///
    /// # Errors
    /// [`ClientError`]. After a retryable one, post the same items again.
    pub async fn post_ndjson(
        &self,
        body: bytes::Bytes,
        partial: bool,
    ) -> Result<Posted, ClientError> {
        let mut request = self
            .http
            .post(self.items.clone())
            .header(CONTENT_TYPE, "application/x-ndjson")
            .body(body);
        if partial {
            request = request.query(&[("partial", "true")]);
        }
        let accepted: Accepted = ask(request).await?;
        Ok(Posted {
            accepted: accepted.accepted,
            faults: by_index(accepted.errors),
        })
    }

    /// Checks whether the node runs or, with `ready`, whether it is ready. Returns its status.
    ///
    /// # Errors
    /// If the node is not ready, or does not respond within 5 seconds.
    pub async fn health(&self, ready: bool) -> Result<String, ClientError> {
        let path = if ready { "readyz" } else { "healthz" };
        let request = self.http.get(endpoint(&self.base, path)?);
        let health: Health = ask(request.timeout(HEALTH_TIMEOUT)).await?;
        Ok(health.status)
    }

    /// Returns the counters that the coordinator knows.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn counters(&self) -> Result<Vec<CounterItems>, ClientError> {
        let request = self.http.get(endpoint(&self.base, "counters")?);
        let counters: Counters = ask(request).await?;
        Ok(counters.counters)
    }

    /// Returns the counts of any number of tenants. Several requests are sent if one is too small.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn counts(&self, request: &CountsRequest) -> Result<Vec<TenantCount>, ClientError> {
        let mut rows = Vec::with_capacity(request.tenants.len());
        for tenants in requests(&request.tenants) {
            let mut url = self.counts.clone();
            {
                let mut query = url.query_pairs_mut();
                query.extend_pairs(tenants.iter().map(|tenant| ("tenant", tenant)));
                query.extend_pairs(
                    request
                        .consistency
                        .iter()
                        .map(|value| ("consistency", value)),
                );
                query.extend_pairs(request.after.iter().map(|value| ("after", value)));
            }
            let counts: Counts = ask(self.http.get(url)).await?;
            rows.extend(counts.counts.into_iter().map(|row| TenantCount {
                tenant: row.tenant,
                count: row.count,
                exact: counts.exact,
            }));
        }
        Ok(rows)
    }
}

/// Splits tenants into slices that fit into one request each.
fn requests(mut tenants: &[String]) -> impl Iterator<Item = &[String]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fitting = tenants
            .iter()
            .take(TENANTS_PER_REQUEST)
            .take_while(|tenant| {
                // Percent-encoding takes at most three bytes for each byte, and each tenant needs
                // the name of the parameter.
                bytes += "tenant=&".len() + 3 * tenant.len();
                bytes <= QUERY_BYTES_MAX
            });
        let count = fitting.count().max(1).min(tenants.len());
        let (slice, rest) = tenants.split_at(count);
        tenants = rest;
        (!slice.is_empty()).then_some(slice)
    })
}

/// Returns the URL of a path of the API below the address of a coordinator.
fn endpoint(base: &Url, path: &str) -> Result<Url, ClientError> {
    base.join(path)
        .map_err(|_| ClientError::Url(base.to_string()))
}

async fn ask<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, ClientError> {
    let response = request.send().await.map_err(|error| no_answer(&error))?;
    let status = response.status();
    let headers = response.headers().clone();
    let body = response.bytes().await.map_err(|error| no_answer(&error))?;
    if status.is_success() {
        return serde_json::from_slice(&body)
            .map_err(|error| ClientError::Unexpected(error.to_string()));
    }
    let reason = status.canonical_reason().unwrap_or("unknown status");
    Err(refusal(status.as_u16(), reason, &headers, &body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_asked_for_in_requests_that_fit() {
        let many: Vec<String> = (0..2_500).map(|n| n.to_string()).collect();
        assert_eq!(
            requests(&many).map(<[String]>::len).collect::<Vec<_>>(),
            [1_000, 1_000, 500]
        );
        let long = vec!["é".repeat(256); 50];
        let slices: Vec<_> = requests(&long).map(<[String]>::len).collect();
        assert_eq!(slices.iter().sum::<usize>(), 50);
        assert!(slices.iter().all(|&count| count <= 21), "{slices:?}");
        assert_eq!(requests(&["x".repeat(100_000)]).count(), 1);
        assert_eq!(requests(&[]).count(), 0);
    }
}
