//! What the tasks of a node stand on: the clock, and the supervisor of tasks that a node can't do
//! without.
//!
//! Invariant: nothing here knows what the tasks do.

pub mod clock;
pub mod supervisor;
