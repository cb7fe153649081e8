//! The messages of a counter's generation queue, and whether they match its store.
//!
//! Invariant: a message has exactly one encoding, and nothing else decodes.
//!
//! Queues and markers are definitions: they can be exported from a broker and imported into
//! another, but messages can't. An older copy, of the broker or of a store, holds an older
//! generation than the other side. So a message that both sides know detects both.
//!
//! All numbers are little-endian.
//!
//! | field | bytes |
//! |---|---|
//! | magic `HCG` | 3 |
//! | format version, 1 | 1 |
//! | author: 0 the bootstrap, 1 the counter | 1 |
//! | generation | 16 |
//! | CRC-32 (IEEE) of the preceding bytes | 4 |

use headcount_model::{GENERATION_BYTES, Generation, KeptGeneration};

const MAGIC: [u8; 3] = *b"HCG";
const VERSION: u8 = 1;
/// Size of a message in bytes.
const MESSAGE_BYTES: usize = MAGIC.len() + 1 + 1 + GENERATION_BYTES + 4;

/// Who published a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    /// The coordinator that bootstrapped the cluster: the counter's queue has received everything
    /// since the beginning.
    Founding,
    /// The counter.
    Counter,
}

/// A message of a generation queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub author: Author,
    pub generation: Generation,
}

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MESSAGE_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.push(VERSION);
        bytes.push(match self.author {
            Author::Founding => 0,
            Author::Counter => 1,
        });
        bytes.extend_from_slice(&self.generation.0);
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// None if the bytes are not a message of this format, for example one of a later release.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, checksum) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let rest = body.strip_prefix(&MAGIC)?.strip_prefix(&[VERSION])?;
        let (author, generation) = rest.split_first()?;
        Some(Self {
            author: match author {
                0 => Author::Founding,
                1 => Author::Counter,
                _ => return None,
            },
            generation: Generation(generation.try_into().ok()?),
        })
    }
}

/// The content of a counter's generation queue, from the view of its store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Whether the queue exists.
    pub queue: bool,
    /// Whether it holds the generation that the store remembers.
    pub own: bool,
    /// Whether it holds a message of the bootstrap.
    pub founding: bool,
    /// Whether it holds any other message.
    pub others: bool,
}

impl Found {
    /// Classifies `messages` for a store that remembers `kept`. `messages` is none if the queue
    /// does not exist, and an element is none if the message does not decode.
    pub(crate) fn of(messages: Option<&[Option<Message>]>, kept: Option<KeptGeneration>) -> Self {
        let Some(messages) = messages else {
            return Self::default();
        };
        let mut found = Self {
            queue: true,
            ..Self::default()
        };
        for message in messages {
            match message {
                Some(message) if kept.is_some_and(|it| it.generation == message.generation) => {
                    found.own = true;
                }
                Some(Message {
                    author: Author::Founding,
                    ..
                }) => found.founding = true,
                _ => found.others = true,
            }
        }
        found
    }

    /// Why the broker and a store that remembers `kept` do not belong together; none if they do.
    pub(crate) fn mismatch(self, kept: Option<KeptGeneration>) -> Option<&'static str> {
        match kept.map(|kept| kept.is_placed) {
            Some(true) if self.own => None,
            Some(true) => Some(self.of_another()),
            // The store was about to place its first generation.
            Some(false) if self.own || self.founding || !self.others => None,
            // Bootstrapped by a release without generations, or about to replace the generation of
            // the bootstrap.
            None if !self.queue || self.founding => None,
            None if !self.others => Some(LIKE_IMPORTED),
            Some(false) | None => Some(LIKE_OLD_STORE),
        }
    }

    /// Describes a queue that lacks the store's generation.
    fn of_another(self) -> &'static str {
        if !self.queue {
            "there is no generation queue: it was deleted, or this is a different broker"
        } else if self.others {
            "the broker holds a different generation than the counter's store: an older copy of \
             the broker or of the data directory was restored, or two processes run as this counter"
        } else if self.founding {
            "the broker was bootstrapped without the counter's store: it is a different broker"
        } else {
            LIKE_IMPORTED
        }
    }
}

/// Describes a queue without messages.
const LIKE_IMPORTED: &str = "the broker has the counter's queues, but no message in its generation \
     queue: the broker was restored from exported definitions, or that queue was purged";

/// Describes a queue with messages that the store does not know.
const LIKE_OLD_STORE: &str = "the broker holds a generation that the counter's store does not \
     know: an older copy of the data directory was restored, or two processes run as this counter";

#[cfg(test)]
#[path = "generation_tests.rs"]
mod tests;
