//! Decompresses bodies.
//!
//! Invariant: the output is not larger than a body may be, and room is reserved for it before it is
//! written. The decompressor itself is bounded as well: its memory by [`WINDOW_LOG_MAX`] and
//! [`UNPACKING_MAX`], its time by the sizes of input and output, which are both limited to the size
//! of a body.

use std::io::{self, Read};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::{BodyLimits, Room};
use super::error::Problem;
use super::media::Packing;
use headcount_runtime::clock::within;

/// Maximum number of bodies that are decompressed concurrently; others wait.
const UNPACKING_MAX: usize = 4;

/// Maximum memory that a zstd frame may require, as a power of two: 8 MiB. RFC 9659 sets this limit
/// for the content coding.
const WINDOW_LOG_MAX: u32 = 23;

/// Initial size of the output buffer, in bytes. It doubles whenever it is full.
const FIRST_BYTES: usize = 64 * 1024;

/// The permits for concurrent decompression.
pub(crate) struct Unpackers(Arc<Semaphore>);

impl Unpackers {
    /// Creates the permits; all of them are available.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(UNPACKING_MAX)))
    }

    /// Waits for a permit, for at most the timeout of a body.
    pub(crate) async fn place(&self, limits: BodyLimits) -> Result<OwnedSemaphorePermit, Problem> {
        let place = Arc::clone(&self.0).acquire_owned();
        let place = within(limits.body_timeout, place).await;
        place
            .ok()
            .and_then(Result::ok)
            .ok_or_else(Problem::bodies_in_flight)
    }
}

/// Decompresses `body` to at most `bytes_max` bytes. This takes a few milliseconds of CPU time per
/// MiB.
pub(crate) fn unpack(
    packing: Packing,
    body: &[u8],
    bytes_max: usize,
    room: &mut Room,
) -> Result<Vec<u8>, Problem> {
    let unpacked = match packing {
        Packing::Gzip => read(MultiGzDecoder::new(body), bytes_max, room),
        Packing::Zstd => zstd_of(body)
            .map_err(Fault::Body)
            .and_then(|zstd| read(zstd, bytes_max, room)),
    };
    unpacked.map_err(|fault| match fault {
        Fault::TooLarge => Problem::body_too_large(bytes_max),
        Fault::NoRoom => Problem::bodies_in_flight(),
        Fault::Body(error) => Problem::unreadable_body(format!(
            "The body cannot be decompressed as {}: {error}. {}",
            packing.name(),
            match packing {
                Packing::Gzip => "Compress it again, or send it uncompressed.",
                Packing::Zstd =>
                    "Compress it again with a window of at most 8 MiB, or send it uncompressed.",
            }
        )),
    })
}

fn zstd_of(body: &[u8]) -> io::Result<impl Read> {
    let mut zstd = zstd::Decoder::with_buffer(body)?;
    zstd.window_log_max(WINDOW_LOG_MAX)?;
    Ok(zstd)
}

enum Fault {
    TooLarge,
    NoRoom,
    Body(io::Error),
}

fn read(mut from: impl Read, bytes_max: usize, room: &mut Room) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let mut filled = 0;
    loop {
        if filled > bytes_max {
            return Err(Fault::TooLarge);
        }
        if filled == bytes.len() {
            // The buffer may hold one byte more than allowed, to detect that the limit is exceeded.
            let next = (2 * filled).max(FIRST_BYTES).min(bytes_max + 1);
            if !room.take(next - filled) {
                return Err(Fault::NoRoom);
            }
            bytes.reserve_exact(next - filled);
            bytes.resize(next, 0);
        }
        match from.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Fault::Body(error)),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use bytes::Bytes;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::body::Bodies;

    const BYTES_MAX: usize = 1 << 20;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(bytes).expect("packed");
        gzip.finish().expect("packed")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 3).expect("packed")
    }

    /// Returns the room of a body of `bytes` bytes, where all bodies share `bytes_max` bytes.
    async fn room(bytes: usize, bytes_max: usize) -> Room {
        let limits = BodyLimits {
            body_bytes_max: bytes_max,
            bodies_bytes_max: bytes_max,
            body_timeout: std::time::Duration::from_secs(30),
        };
        let body = Body::from(Bytes::from(vec![0; bytes]));
        let received = Bodies::new(limits).receive(body).await;
        received.map(|(_, room)| room).expect("received")
    }

    async fn unpacked(packing: Packing, packed: &[u8]) -> Result<Vec<u8>, StatusCode> {
        let mut room = room(packed.len().max(1), 1 << 24).await;
        unpack(packing, packed, BYTES_MAX, &mut room)
            .map_err(|problem| problem.into_response().status())
    }

    #[tokio::test]
    async fn what_was_packed_comes_out() {
        for length in [0, 1, FIRST_BYTES, FIRST_BYTES + 1, 300_000, BYTES_MAX] {
            let bytes: Vec<u8> = (0..length).map(|at| ((at * at) >> 7) as u8).collect();
            let gzip_of = unpacked(Packing::Gzip, &gzip(&bytes)).await;
            assert!(gzip_of == Ok(bytes.clone()), "{length}");
            let zstd_of = unpacked(Packing::Zstd, &zstd(&bytes)).await;
            assert!(zstd_of == Ok(bytes), "{length}");
        }
        // Concatenated members, as from `cat a.gz b.gz`.
        let parts = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(
            unpacked(Packing::Gzip, &parts).await,
            Ok(b"one two".to_vec())
        );
        let parts = [zstd(b"one "), zstd(b"two")].concat();
        assert_eq!(
            unpacked(Packing::Zstd, &parts).await,
            Ok(b"one two".to_vec())
        );
    }

    #[tokio::test]
    async fn what_is_larger_than_a_body_may_be_is_refused_once_it_is() {
        let large = vec![b' '; 8 * BYTES_MAX];
        for (packing, packed) in [(Packing::Gzip, gzip(&large)), (Packing::Zstd, zstd(&large))] {
            assert!(packed.len() < BYTES_MAX);
            let refused = unpacked(packing, &packed).await;
            assert_eq!(refused, Err(StatusCode::PAYLOAD_TOO_LARGE), "{packing:?}");
        }
        for (packing, packed) in [
            (Packing::Gzip, gzip(&large[..=BYTES_MAX])),
            (Packing::Zstd, zstd(&large[..=BYTES_MAX])),
        ] {
            let refused = unpacked(packing, &packed).await;
            assert_eq!(
                refused,
                Err(StatusCode::PAYLOAD_TOO_LARGE),
                "one byte too many"
            );
        }
        // A frame that requires a window of 128 MiB for a single byte.
        let mut wide = zstd::Encoder::new(Vec::new(), 3).expect("an encoder");
        wide.window_log(27).expect("set");
        wide.write_all(b"x").expect("packed");
        let wide = wide.finish().expect("packed");
        assert_eq!(
            unpacked(Packing::Zstd, &wide).await,
            Err(StatusCode::BAD_REQUEST)
        );
    }

    #[tokio::test]
    async fn what_is_not_packed_as_it_says_is_refused() {
        let (gzip, zstd) = (gzip(b"[1, 2, 3]"), zstd(b"[1, 2, 3]"));
        for (packing, packed, other) in
            [(Packing::Gzip, &gzip, &zstd), (Packing::Zstd, &zstd, &gzip)]
        {
            let mut damaged = packed.clone();
            let last = damaged.len() - 5;
            damaged[last] ^= 1;
            for bad in [
                &packed[..packed.len() - 1],
                &packed[..3],
                other,
                b"[1, 2, 3]",
                &[&packed[..], b"more"].concat(),
            ] {
                let refused = unpacked(packing, bad).await;
                assert_eq!(refused, Err(StatusCode::BAD_REQUEST), "{packing:?} {bad:?}");
            }
            assert_ne!(unpacked(packing, &damaged).await, Ok(b"[1, 2, 3]".to_vec()));
        }
        assert_eq!(
            unpacked(Packing::Gzip, b"").await,
            Err(StatusCode::BAD_REQUEST)
        );
    }

    #[tokio::test]
    async fn what_comes_out_takes_room_beside_what_went_in() {
        let packed = gzip(&vec![b' '; 500_000]);
        let mut enough = room(packed.len(), packed.len() + 600_000).await;
        assert!(unpack(Packing::Gzip, &packed, BYTES_MAX, &mut enough).is_ok());
        let mut little = room(packed.len(), packed.len() + 100_000).await;
        let refused = unpack(Packing::Gzip, &packed, BYTES_MAX, &mut little);
        let status = refused.map_err(|problem| problem.into_response().status());
        assert_eq!(status, Err(StatusCode::SERVICE_UNAVAILABLE));
    }
}
