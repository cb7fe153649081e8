//! `headcount health`: a health check for environments without another HTTP client, such as small
//! containers.
//!
//! Invariant: it succeeds only if the node itself reports that it is healthy.

use super::print;
use crate::client::{ClientError, PublicClient};

/// Prints the status that the node at `url` reports. Returns whether it was written.
///
/// # Errors
/// The node is not healthy or does not answer.
pub async fn health(url: &str, ready: bool, json: bool) -> Result<bool, ClientError> {
    let status = PublicClient::new(url)?.health(ready).await?;
    Ok(print(&match json {
        true => format!("{}\n", serde_json::json!({ "status": status })),
        false => format!("{status}\n"),
    }))
}
