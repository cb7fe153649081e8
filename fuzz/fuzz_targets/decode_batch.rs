//! Decodes arbitrary bytes as a batch from a queue: decoding never panics, and a batch that decodes
//! has exactly one encoding.
//!
//! Each input is tried unchanged, and with its checksum corrected, because random input almost
//! never has a valid checksum.

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
