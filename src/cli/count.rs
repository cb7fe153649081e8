//! `headcount count`.
//!
//! Invariant: standard output has one line per tenant, with tenant and count separated by a tab, or
//! one JSON object. A count that is not exact is marked.

use serde::Serialize;

use super::print;
use crate::client::{ClientError, CountsRequest, PublicClient, TenantCount};

/// The counts in JSON.
#[derive(Serialize)]
struct Counts<'a> {
    counts: Vec<Row<'a>>,
    /// Whether all counts are exact.
    exact: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    tenant: &'a str,
    count: u64,
    exact: bool,
}

/// Prints the counts that `request` names, from the coordinator at `url`. Returns whether they were
/// written.
///
/// # Errors
/// The coordinator does not return the counts.
pub async fn count(url: &str, request: &CountsRequest, json: bool) -> Result<bool, ClientError> {
    let rows = PublicClient::new(url)?.counts(request).await?;
    Ok(print(&match json {
        true => as_json(&rows),
        false => as_text(&rows),
    }))
}

fn as_text(rows: &[TenantCount]) -> String {
    let mut text = String::new();
    for row in rows {
        let note = if row.exact { "" } else { "\tnot exact" };
        text.push_str(&format!("{}\t{}{note}\n", row.tenant, row.count));
    }
    text
}

fn as_json(rows: &[TenantCount]) -> String {
    let counts = Counts {
        exact: rows.iter().all(|row| row.exact),
        counts: rows
            .iter()
            .map(|row| Row {
                tenant: &row.tenant,
                count: row.count,
                exact: row.exact,
            })
            .collect(),
    };
    // Serializing strings, numbers and booleans can't fail.
    serde_json::to_string(&counts).map_or_else(|_| String::new(), |text| text + "\n")
}
