//! A block of memory for random reads.
//!
//! Invariant: the block is initially zero and never moves or grows.
//!
//! With pages of 4 KiB, nearly every random read in a few hundred megabytes misses the TLB of the
//! processor, and waits for the page walk before it waits for the memory. Therefore large blocks
//! request huge pages.

use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Size in bytes from which on huge pages are requested: a few huge pages.
const LARGE_BYTES_MIN: usize = 8 << 20;

/// See the module documentation.
pub(super) enum Pages {
    Small(Box<[u8]>),
    Large(MmapMut),
}

impl Pages {
    /// Allocates a block of zeros.
    pub(super) fn zeroed(bytes: usize) -> Self {
        match large(bytes) {
            Ok(Some(pages)) => Self::Large(pages),
            // Without huge pages reads are slower, but correct.
            Ok(None) | Err(_) => Self::Small(vec![0; bytes].into_boxed_slice()),
        }
    }
}

fn large(bytes: usize) -> io::Result<Option<MmapMut>> {
    if bytes < LARGE_BYTES_MIN {
        return Ok(None);
    }
    let pages = MmapMut::map_anon(bytes)?;
    #[cfg(target_os = "linux")]
    pages.advise(memmap2::Advice::HugePage)?;
    Ok(Some(pages))
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(bytes) => bytes,
        }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_blocks_start_as_zeros_and_keep_what_is_written() {
        for bytes in [1, LARGE_BYTES_MIN - 1, LARGE_BYTES_MIN + 1] {
            let mut pages = Pages::zeroed(bytes);
            assert_eq!(pages.len(), bytes);
            assert!(pages.iter().all(|byte| *byte == 0));
            pages[bytes - 1] = 7;
            assert_eq!(pages.last(), Some(&7));
        }
    }
}
