//! Parses arbitrary bytes as a request body, as JSON or NDJSON, completely or partially: parsing
//! never panics.

#![no_main]

use headcount::http::parse::{Format, Invalid, parse};
use libfuzzer_sys::fuzz_target;

/// Maximum number of items in a body; small, so that inputs reach the limit.
const ITEMS_MAX: usize = 100;

/// Bytes available for faults; few enough that they may not suffice.
const FAULTS_BYTES: usize = 10_000;

fuzz_target!(|body: &[u8]| {
    for format in [Format::Json, Format::Ndjson] {
        let whole = parse(format, body, ITEMS_MAX, Invalid::RefusesAll);
        let mut left = FAULTS_BYTES;
        let mut take = |bytes: usize| {
            let rest = left.checked_sub(bytes);
            left = rest.unwrap_or(left);
            rest.is_some()
        };
        let partly = parse(format, body, ITEMS_MAX, Invalid::IsLeftOut(&mut take));
        if whole.is_ok() {
            assert_eq!(whole, partly, "all are valid");
        }
        for items in [whole, partly].into_iter().flatten() {
            assert!(items.count <= ITEMS_MAX, "{} items", items.count);
            let hashes: usize = items.tenants.iter().map(|group| group.hashes.len()).sum();
            assert_eq!(hashes, items.count, "as many hashes as items");
        }
    }
});
