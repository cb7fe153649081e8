//! Any bytes may be posted as a body: parsing them, as JSON or as NDJSON, never panics.

#![no_main]

use headcount::http::parse::{parse_json, parse_ndjson};
use libfuzzer_sys::fuzz_target;

/// The most items of a body; small, so that the limit is met too.
const ITEMS_MAX: usize = 100;

fuzz_target!(|body: &[u8]| {
    for items in [parse_json(body, ITEMS_MAX), parse_ndjson(body, ITEMS_MAX)]
        .into_iter()
        .flatten()
    {
        assert!(items.count <= ITEMS_MAX, "{} items", items.count);
        let hashes: usize = items.tenants.iter().map(|group| group.hashes.len()).sum();
        assert!(hashes <= items.count, "more hashes than items");
    }
});
