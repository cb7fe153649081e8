//! Collects the keys of a snapshot for the counter's task.
//!
//! Invariant: it holds no more keys than one command to the task carries.

use super::snapshot::Part;
use headcount_model::{ItemHash, Position, TenantName};

/// Items per command to the counter's task while a snapshot is ingested.
const UNITE_ITEMS_MAX: usize = 16_384;

/// Keys collected for the counter's task.
#[derive(Default)]
pub(super) struct Gathered {
    pub position: Option<Position>,
    pub keys: Vec<(TenantName, Vec<ItemHash>)>,
    waiting: usize,
    pub items: u64,
}

impl Gathered {
    /// Adds a part. Returns the keys to pass to the task, once there are enough.
    pub(crate) fn take(&mut self, part: Part) -> Option<Vec<(TenantName, Vec<ItemHash>)>> {
        match part {
            Part::Head { position, .. } => self.position = Some(position),
            Part::Keys { tenant, hashes } => {
                self.waiting += hashes.len();
                self.items += hashes.len() as u64;
                self.keys.push((tenant, hashes));
                if self.waiting >= UNITE_ITEMS_MAX {
                    self.waiting = 0;
                    return Some(std::mem::take(&mut self.keys));
                }
            }
            Part::End => {}
        }
        None
    }
}
