//! Merges several ascending sources of keys into one stream.
//!
//! Invariant: the stream is strictly ascending. A source that is not ascending, or a key in two
//! parts of a store, ends the stream with an error, since counts and keys would differ.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;

use super::super::{Key, StoreError};
use super::block::{self, BLOCK_BYTES};
use super::run::Run;

/// Number of blocks of a run per read.
const BLOCKS_AHEAD: u64 = 16;

/// Reads the keys of a run from first to last, with a few blocks in memory at a time.
pub(super) struct RunStream {
    run: Arc<Run>,
    next_block: u64,
    bytes: Vec<u8>,
    keys: Vec<Key>,
    at: usize,
}

impl RunStream {
    fn next(&mut self) -> Result<Option<Key>, StoreError> {
        loop {
            if let Some(key) = self.keys.get(self.at) {
                self.at += 1;
                return Ok(Some(*key));
            }
            let count = BLOCKS_AHEAD.min(self.run.blocks() - self.next_block);
            if count == 0 {
                return Ok(None);
            }
            self.keys.clear();
            self.at = 0;
            self.run
                .read_blocks(self.next_block, count, &mut self.bytes)?;
            for (number, bytes) in (self.next_block..).zip(self.bytes.chunks(BLOCK_BYTES)) {
                block::decode(bytes, &mut self.keys).ok_or_else(|| self.run.bad_block(number))?;
            }
            self.next_block += count;
        }
    }

    /// Makes the error for a key that is not greater than the one before it.
    fn disorder(&self) -> StoreError {
        self.run.bad_block(self.next_block.saturating_sub(1))
    }
}

/// An ascending source of keys.
pub(super) enum Source {
    Run(RunStream),
    Memory(std::vec::IntoIter<Key>),
}

impl Source {
    /// Makes a source of all keys of a run.
    pub(super) fn run(run: Arc<Run>) -> Self {
        Self::Run(RunStream {
            run,
            next_block: 0,
            bytes: Vec::new(),
            keys: Vec::new(),
            at: 0,
        })
    }

    /// Makes a source of keys in memory, which may be in any order.
    pub(super) fn memory(mut keys: Vec<Key>) -> Self {
        keys.sort_unstable();
        Self::Memory(keys.into_iter())
    }

    fn next(&mut self) -> Result<Option<Key>, StoreError> {
        match self {
            Self::Run(stream) => stream.next(),
            Self::Memory(keys) => Ok(keys.next()),
        }
    }

    fn disorder(&self) -> StoreError {
        match self {
            Self::Run(stream) => stream.disorder(),
            // Keys in memory are never in a run too: only a bug leads here.
            Self::Memory(_) => StoreError::Poisoned,
        }
    }
}

/// The keys of all sources, ascending, each once.
pub(super) struct Merged {
    sources: Vec<Source>,
    /// The next key of each source that has one.
    heads: BinaryHeap<Reverse<(u128, usize)>>,
    last: Option<u128>,
    /// Whether sources may share keys. A shared key appears in the stream once.
    may_share: bool,
}

impl Merged {
    /// Merges sources that share no keys: the parts of a store.
    pub(super) fn new(sources: Vec<Source>) -> Result<Self, StoreError> {
        Self::of(sources, false)
    }

    /// Merges sources that may share keys: the runs of an ingest.
    pub(super) fn union(sources: Vec<Source>) -> Result<Self, StoreError> {
        Self::of(sources, true)
    }

    fn of(mut sources: Vec<Source>, may_share: bool) -> Result<Self, StoreError> {
        let mut heads = BinaryHeap::with_capacity(sources.len());
        for (at, source) in sources.iter_mut().enumerate() {
            if let Some(key) = source.next()? {
                heads.push(Reverse((u128::from_be_bytes(key.0), at)));
            }
        }
        Ok(Self {
            sources,
            heads,
            last: None,
            may_share,
        })
    }

    /// Returns the next key.
    pub(super) fn next(&mut self) -> Result<Option<Key>, StoreError> {
        loop {
            let before = self.last;
            let key = self.step()?;
            if key.is_none() || self.last != before {
                return Ok(key);
            }
        }
    }

    /// Takes the smallest key of all sources. It equals the previous key if sources share it.
    fn step(&mut self) -> Result<Option<Key>, StoreError> {
        let Some(mut head) = self.heads.peek_mut() else {
            return Ok(None);
        };
        let Reverse((key, at)) = *head;
        let Some(source) = self.sources.get_mut(at) else {
            return Ok(None);
        };
        let is_shared = self.may_share && self.last == Some(key);
        if !is_shared && self.last.is_some_and(|last| last >= key) {
            return Err(source.disorder());
        }
        self.last = Some(key);
        match source.next()? {
            Some(next) => *head = Reverse((u128::from_be_bytes(next.0), at)),
            None => {
                PeekMut::pop(head);
            }
        }
        Ok(Some(Key(key.to_be_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::KEY_BYTES;

    fn key(number: u8) -> Key {
        let mut bytes = [0; KEY_BYTES];
        bytes[usize::from(number % 3) * 5] = number;
        Key(bytes)
    }

    fn drain(mut merged: Merged) -> Result<Vec<Key>, StoreError> {
        let mut keys = Vec::new();
        while let Some(key) = merged.next()? {
            keys.push(key);
        }
        Ok(keys)
    }

    proptest! {
        #[test]
        fn sources_become_one_ascending_stream_and_a_shared_key_is_refused(
            owners in prop::collection::btree_map(1_u8..100, 0..4_usize, 0..60),
            twice in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut parts = vec![Vec::new(); 4];
            for (number, owner) in &owners {
                parts[*owner].push(key(*number));
            }
            let expected: BTreeSet<Key> = parts.iter().flatten().copied().collect();
            let twice = twice.filter(|_| !owners.is_empty());
            if let Some(index) = twice {
                let (number, owner) = owners.iter().nth(index.index(owners.len())).expect("some");
                parts[(owner + 1) % 4].push(key(*number));
            }
            let again = parts.iter().cloned().map(Source::memory).collect();
            let sources = parts.into_iter().map(Source::memory).collect();
            let keys = Merged::new(sources).and_then(drain);
            let union = Merged::union(again).and_then(drain);
            prop_assert_eq!(union.ok(), Some(expected.iter().copied().collect::<Vec<_>>()));
            match twice {
                Some(_) => prop_assert!(keys.is_err()),
                None => prop_assert_eq!(keys.ok(), Some(expected.into_iter().collect())),
            }
        }
    }
}
