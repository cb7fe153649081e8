//! `headcount verify`: how a recount's report is printed.
//!
//! Invariant: every difference is named.

use crate::store::verify::Report;

/// Prints a recount's report; says whether everything agreed.
#[must_use]
pub fn print_report(report: &Report) -> bool {
    for difference in &report.differences {
        let name = match &difference.tenant {
            Some(name) => name.as_str(),
            None => "(no tenant of the dictionary)",
        };
        println!(
            "{name}\tcount {}\trecounted {}",
            difference.stored, difference.recounted
        );
    }
    let verdict = match report.differences.len() {
        0 => "all counts agree".to_owned(),
        differing => format!("{differing} differ"),
    };
    println!(
        "{} tenants, {} items: {verdict}",
        report.tenants, report.items
    );
    report.differences.is_empty()
}
