//! `headcount count`.
//!
//! Invariant: one line a tenant on standard output, tenant and count between tabs, or one JSON
//! object; a count that may be short says so.

use serde::Serialize;

use super::print;
use crate::client::{ClientError, CountsRequest, PublicClient, TenantCount};

/// The counts in JSON.
#[derive(Serialize)]
struct Counts<'a> {
    counts: Vec<Row<'a>>,
    /// Whether all of them are.
    exact: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    tenant: &'a str,
    count: u64,
    exact: bool,
}

/// Prints the counts that `request` asks the coordinator at `url` for; says whether they were
/// written.
///
/// # Errors
/// When the coordinator does not answer them.
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
    // Texts, numbers and truth values can always be written.
    serde_json::to_string(&counts).map_or_else(|_| String::new(), |text| text + "\n")
}
