//! `headcount count`.
//!
//! Invariant: one line a tenant on standard output, tenant and count between tabs; a count that may be short
//! says so.

use crate::client::{ClientError, CountsRequest, PublicClient};

/// Prints the counts that `request` asks the coordinator at `url` for.
///
/// # Errors
/// When the coordinator does not answer them.
pub async fn count(url: &str, request: &CountsRequest) -> Result<(), ClientError> {
    for row in PublicClient::new(url)?.counts(request).await? {
        let note = if row.exact { "" } else { "\tnot exact" };
        println!("{}\t{}{note}", row.tenant, row.count);
    }
    Ok(())
}
