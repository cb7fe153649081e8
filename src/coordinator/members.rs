//! The counters that a coordinator was told of.
//!
//! Invariant: a counter is taken to hold the floor only after an answer of its own covered it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::counter::Queries;

/// One named counter.
pub(super) struct Member {
    pub queries: Arc<dyn Queries>,
    holds_floor: AtomicBool,
}

impl Member {
    pub fn new(queries: Arc<dyn Queries>) -> Self {
        Self {
            queries,
            holds_floor: AtomicBool::new(false),
        }
    }

    /// Whether it has answered with the floor covered: positions only grow, so it always will.
    pub fn holds_floor(&self) -> bool {
        self.holds_floor.load(Ordering::Acquire)
    }

    pub fn note_floor(&self) {
        self.holds_floor.store(true, Ordering::Release);
    }
}
