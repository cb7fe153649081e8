//! `headcount health`: for health checks where nothing else can speak HTTP, as in a small
//! container.
//!
//! Invariant: it succeeds only when the node itself said that it is well.

use super::print;
use crate::client::{ClientError, PublicClient};

/// Prints what the node at `url` says of itself; says whether that was written.
///
/// # Errors
/// When it is not well, or doesn't answer.
pub async fn health(url: &str, ready: bool, json: bool) -> Result<bool, ClientError> {
    let status = PublicClient::new(url)?.health(ready).await?;
    Ok(print(&match json {
        true => format!("{}\n", serde_json::json!({ "status": status })),
        false => format!("{status}\n"),
    }))
}
