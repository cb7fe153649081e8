//! The messages of a counter's generation queue, and what they say of its store.
//!
//! Invariant: a message has exactly one encoding, and nothing else decodes.
//!
//! A definition of queues and markers can be exported from a broker and imported into another;
//! messages can't. And an older copy, of the broker or of a store, holds an older generation than
//! the other side.
//!
//! All numbers are little-endian.
//!
//! | field | bytes |
//! |---|---|
//! | magic `HCG` | 3 |
//! | format version, 1 | 1 |
//! | by whom: 0 the founding, 1 the counter | 1 |
//! | generation | 16 |
//! | CRC-32 (IEEE) of all before | 4 |

use headcount_model::{GENERATION_BYTES, Generation, KeptGeneration};

const MAGIC: [u8; 3] = *b"HCG";
const VERSION: u8 = 1;
/// Bytes of a message.
const MESSAGE_BYTES: usize = MAGIC.len() + 1 + 1 + GENERATION_BYTES + 4;

/// Who put a message there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    /// The coordinator that founded the cluster: the counter's queue has everything since the
    /// beginning.
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

    /// None for bytes of anything else, a later release's message among them.
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

/// What a counter's generation queue holds, as its store sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Whether there is such a queue.
    pub queue: bool,
    /// Whether the generation that the store remembers is among the messages.
    pub own: bool,
    /// Whether a message of the founding is.
    pub founding: bool,
    /// Whether anything else is.
    pub others: bool,
}

impl Found {
    /// What `messages` are to a store that remembers `kept`; none where there is no queue, and none
    /// for a message that can't be read.
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

    /// Why the broker and a store that remembers `kept` do not go together, if so.
    pub(crate) fn mismatch(self, kept: Option<KeptGeneration>) -> Option<&'static str> {
        match kept.map(|kept| kept.is_placed) {
            Some(true) if self.own => None,
            Some(true) => Some(self.of_another()),
            // It was about to place its first one.
            Some(false) if self.own || self.founding || !self.others => None,
            // Founded by a release that knew of no generations, or about to replace the founding's.
            None if !self.queue || self.founding => None,
            None if !self.others => Some(LIKE_IMPORTED),
            Some(false) | None => Some(LIKE_OLD_STORE),
        }
    }

    /// What the queue looks like where it lacks the store's generation.
    fn of_another(self) -> &'static str {
        if !self.queue {
            "there is no generation queue: it was deleted, or the broker is another one"
        } else if self.others {
            "the broker holds another generation than its store: an older copy of the broker or of the data folder was put \
             back, or two processes run as this counter"
        } else if self.founding {
            "the broker was founded without its store: it is another broker"
        } else {
            LIKE_IMPORTED
        }
    }
}

/// What a queue without messages looks like.
const LIKE_IMPORTED: &str = "the broker has its queues, but not the message that lay beside them: it was restored from exported \
     definitions, or that queue was purged";

/// What messages look like that the store never heard of.
const LIKE_OLD_STORE: &str = "the broker holds a generation that its store never heard of: an older copy of the data folder was \
     put back, or two processes run as this counter";

#[cfg(test)]
#[path = "generation_tests.rs"]
mod tests;
