//! Opens a store with arbitrary bytes in its files: opening and using it never panics and needs no
//! more memory than the files declare, and a store that can be used opens again in the state in
//! which it was left.
//!
//! An input edits the files of a small store. Each edit consists of the number of the file (1
//! byte), the operation (1), the offset (2), the number of bytes (1), and these bytes. Every store
//! is tried unchanged, and with its checksums corrected.

#![no_main]

use std::sync::LazyLock;

use headcount::store::disk::fuzzing::{StoreFiles, exercise, sample, seal};
use libfuzzer_sys::fuzz_target;

static SAMPLE: LazyLock<StoreFiles> = LazyLock::new(|| {
    let sample = sample().expect("a store");
    exercise(&sample).expect("it opens and can be used");
    assert_eq!(sealed(&sample), sample, "its checksums are right");
    sample
});

fuzz_target!(|input: &[u8]| {
    let mut files = SAMPLE.clone();
    let mut rest = input;
    while let Some((edit, after)) = rest.split_first_chunk::<5>() {
        let (bytes, after) = after.split_at(usize::from(edit[4]).min(after.len()));
        rest = after;
        apply(&mut files, edit, bytes);
    }
    let sealed = sealed(&files);
    if sealed != files {
        let _ = exercise(&files);
    }
    let _ = exercise(&sealed);
});

fn sealed(files: &StoreFiles) -> StoreFiles {
    let mut sealed = files.clone();
    for (name, bytes) in &mut sealed {
        seal(name, bytes);
    }
    sealed
}

fn apply(files: &mut StoreFiles, edit: &[u8; 5], bytes: &[u8]) {
    let count = files.len();
    let (_, content) = &mut files[usize::from(edit[0]) % count];
    let at = usize::from(u16::from_le_bytes([edit[2], edit[3]]));
    // Offsets from the end too, because footers and checksums are there.
    let at = match edit[1] & 1 {
        0 => at.min(content.len()),
        _ => content.len().saturating_sub(at),
    };
    match (edit[1] >> 1) % 3 {
        0 => {
            let end = (at + bytes.len()).min(content.len());
            content[at..end].copy_from_slice(&bytes[..end - at]);
        }
        1 => content.truncate(at),
        _ => content.extend_from_slice(bytes),
    }
}
