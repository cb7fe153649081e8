//! `headcount verify`: prints the report of a recount.
//!
//! Invariant: every difference is listed.

use super::print;
use crate::store::verify::Report;

/// Prints the report of a recount. Returns whether all counts agree and the report was written.
#[must_use]
pub fn print_report(report: &Report) -> bool {
    let mut text = String::new();
    for difference in &report.differences {
        let name = match &difference.tenant {
            Some(name) => name.as_str(),
            None => "(tenant not in the dictionary)",
        };
        text.push_str(&format!(
            "{name}\tcount {}\trecounted {}\n",
            difference.stored, difference.recounted
        ));
    }
    let verdict = match report.differences.len() {
        0 => "all counts agree".to_owned(),
        differing => format!("{differing} differ"),
    };
    text.push_str(&format!(
        "{} tenants, {} items: {verdict}\n",
        report.tenants, report.items
    ));
    print(&text) && report.differences.is_empty()
}
