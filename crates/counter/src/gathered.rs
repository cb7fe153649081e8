//! A snapshot's keys on their way to the counter's task.
//!
//! Invariant: no more wait than the task is given at once.

use super::snapshot::Part;
use headcount_model::{ItemHash, Position, TenantName};

/// Items handed to the counter's task at once while uniting.
const UNITE_ITEMS_MAX: usize = 16_384;

/// Keys gathered for the counter's task.
#[derive(Default)]
pub(super) struct Gathered {
    pub position: Option<Position>,
    pub keys: Vec<(TenantName, Vec<ItemHash>)>,
    waiting: usize,
    pub items: u64,
}

impl Gathered {
    /// Takes a part in; returns what is to be handed on, once it is enough.
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
