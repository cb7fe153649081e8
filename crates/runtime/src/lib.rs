//! Infrastructure for the tasks of a node: the clock, and the supervisor of tasks that a node
//! requires.
//!
//! Invariant: nothing here depends on what the tasks do.

pub mod clock;
pub mod supervisor;
