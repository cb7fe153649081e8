//! Decodes arbitrary bytes as a snapshot from a peer, in pieces of any size: decoding never panics,
//! and the sizes of the pieces make no difference.
//!
//! Each input is tried unchanged, and as the contents of frames with correct checksums.

#![no_main]

use headcount::counter::snapshot::{Part, SnapshotDecoder, SnapshotError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&framed(bytes));
});

fn check(bytes: &[u8]) {
    let whole = decode(bytes, bytes.len().max(1));
    for piece in [1, 7, 100] {
        assert_eq!(decode(bytes, piece), whole, "pieces of {piece} bytes");
    }
}

fn decode(bytes: &[u8], piece: usize) -> Result<Vec<Part>, SnapshotError> {
    let mut decoder = SnapshotDecoder::default();
    let mut parts = Vec::new();
    for piece in bytes.chunks(piece) {
        decoder.push(piece)?;
        while let Some(part) = decoder.next()? {
            parts.push(part);
        }
    }
    decoder.finish()?;
    Ok(parts)
}

/// A stream of frames with these contents, each preceded by two bytes of length. The checksum of
/// the whole stream at its end is corrected too.
fn framed(mut contents: &[u8]) -> Vec<u8> {
    let mut out = b"HCSN\x01\0\0\0".to_vec();
    let mut number = 0_u64;
    while let Some((length, rest)) = contents.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (content, rest) = rest.split_at(length);
        contents = rest;
        let mut content = content.to_vec();
        if content.len() == 21 && content[0] == 4 {
            content[17..].copy_from_slice(&crc32fast::hash(&out).to_le_bytes());
        }
        let length = (content.len() as u32).to_le_bytes();
        let summed = [&number.to_le_bytes()[..], &length, &content].concat();
        out.extend_from_slice(&length);
        out.extend_from_slice(&crc32fast::hash(&summed).to_le_bytes());
        out.extend_from_slice(&content);
        number += 1;
    }
    out
}
