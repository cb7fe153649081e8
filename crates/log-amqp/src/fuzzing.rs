//! Entry points of the fuzz targets: announcements, and messages of generation queues.
//!
//! Invariant: this module is built only for fuzzing, and needs no broker.

use tokio::time::Instant;

use super::announcement::{Nodes, known_counters, note, read};
use super::generation::Message;

/// Decodes a message of a generation queue and encodes it again; `None` if it does not decode.
#[must_use]
pub fn generation_again(bytes: &[u8]) -> Option<Vec<u8>> {
    Message::decode(bytes).map(|message| message.encode())
}

/// Decodes an announcement, records it, and encodes it again; `None` if it does not decode.
#[must_use]
pub fn announcement_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let message = read(bytes)?;
    let again = serde_json::to_vec(&message).ok();
    let (mut nodes, now) = (Nodes::default(), Instant::now());
    note(&mut nodes, message, now, now);
    known_counters(&nodes);
    again
}
