//! `headcount count`.
//!
//! Invariant: one line a tenant on standard output, tenant and count between tabs; a count that may be short
//! says so.

use super::print;
use crate::client::{ClientError, CountsRequest, PublicClient};

/// Prints the counts that `request` asks the coordinator at `url` for; says whether they were written.
///
/// # Errors
/// When the coordinator does not answer them.
pub async fn count(url: &str, request: &CountsRequest) -> Result<bool, ClientError> {
    let mut text = String::new();
    for row in PublicClient::new(url)?.counts(request).await? {
        let note = if row.exact { "" } else { "\tnot exact" };
        text.push_str(&format!("{}\t{}{note}\n", row.tenant, row.count));
    }
    Ok(print(&text))
}
