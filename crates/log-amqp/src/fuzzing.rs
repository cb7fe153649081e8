//! For the fuzz targets: what other nodes announce, and what lies in a generation queue.
//!
//! Invariant: it is built for fuzzing only, and needs no broker.

use tokio::time::Instant;

use super::announcement::{Nodes, known_counters, note, read};
use super::generation::Message;

/// A message of a generation queue written again; `None` when the bytes are none.
#[must_use]
pub fn generation_again(bytes: &[u8]) -> Option<Vec<u8>> {
    Message::decode(bytes).map(|message| message.encode())
}

/// An announcement written again, once it was noted; `None` when the bytes are none.
#[must_use]
pub fn announcement_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let message = read(bytes)?;
    let again = serde_json::to_vec(&message).ok();
    let (mut nodes, now) = (Nodes::default(), Instant::now());
    note(&mut nodes, message, now, now);
    known_counters(&nodes);
    again
}
