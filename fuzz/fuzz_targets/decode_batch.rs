//! Any bytes may come out of a queue: decoding them never panics, and what decodes has exactly one
//! form.
//!
//! Each input is tried as it is, and with its checksum put right: chance alone never gets past one.

#![no_main]

use headcount::log::wire::{decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let checksum = crc32fast::hash(bytes);
    check(&[bytes, &checksum.to_le_bytes()].concat());
});

fn check(bytes: &[u8]) {
    if let Ok(batch) = decode(bytes) {
        assert_eq!(encode(&batch), bytes, "two encodings of one batch");
    }
}
