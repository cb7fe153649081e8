//! A batch of items from a file, as NDJSON, with the line of each item.
//!
//! Invariant: the body has exactly one line per item, so that an item's index in the body is its
//! index in a response.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// A batch of items from a file, ready to be posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceBatch {
    /// The file's name.
    pub file: Arc<str>,
    /// Line of each item in the file, from 1; the first line of a CSV record.
    pub lines: Vec<u64>,
    /// NDJSON: one line per item, each with a line end.
    pub body: Bytes,
    /// Number of bytes of the file that the batch covers.
    pub source_bytes: u64,
}

impl SourceBatch {
    /// Splits the batch in two. The second half is empty if there is only one item.
    pub(super) fn halves(mut self) -> (Self, Self) {
        let first_items = self.lines.len().div_ceil(2);
        let first_bytes = self.items().take(first_items).map(|item| item.len()).sum();
        let second = Self {
            file: Arc::clone(&self.file),
            lines: self.lines.split_off(first_items),
            body: self.body.split_off(first_bytes),
            source_bytes: self.source_bytes / 2,
        };
        self.source_bytes -= second.source_bytes;
        (self, second)
    }

    /// Returns the batch without the items at these indexes.
    pub(super) fn without(&self, indexes: &BTreeSet<usize>) -> Self {
        let (mut lines, mut body) = (Vec::new(), BytesMut::new());
        for (index, (item, line)) in self.items().zip(&self.lines).enumerate() {
            if !indexes.contains(&index) {
                lines.push(*line);
                body.extend_from_slice(&item);
            }
        }
        Self {
            file: Arc::clone(&self.file),
            lines,
            body: body.freeze(),
            source_bytes: self.source_bytes,
        }
    }

    /// The lines of the items in the body, with their line ends.
    fn items(&self) -> impl Iterator<Item = Bytes> + '_ {
        let mut rest = self.body.clone();
        std::iter::from_fn(move || {
            let end = rest.iter().position(|&byte| byte == b'\n')?;
            Some(rest.split_to(end + 1))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lines: &[u64]) -> SourceBatch {
        let body: String = lines.iter().map(|line| format!("item {line}\n")).collect();
        SourceBatch {
            file: "a".into(),
            lines: lines.to_vec(),
            body: body.into(),
            source_bytes: 101,
        }
    }

    #[test]
    fn halves_are_all_of_it() {
        let (first, second) = batch(&[1, 20, 300]).halves();
        assert_eq!(first.body, batch(&[1, 20]).body);
        assert_eq!(second.body, batch(&[300]).body);
        assert_eq!((first.lines, second.lines), (vec![1, 20], vec![300]));
        assert_eq!(first.source_bytes + second.source_bytes, 101);
        let (first, second) = batch(&[7]).halves();
        assert_eq!(first.lines, [7]);
        assert_eq!((second.lines.len(), second.body.len()), (0, 0));
    }

    #[test]
    fn what_is_left_out_is_gone_with_its_line() {
        let whole = batch(&[1, 20, 300, 4]);
        assert_eq!(whole.without(&[0, 2].into()), batch(&[20, 4]));
        assert_eq!(whole.without(&[].into()), whole);
        assert_eq!(whole.without(&[0, 1, 2, 3].into()), batch(&[]));
    }
}
