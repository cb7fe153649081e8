//! A counter: a replica that applies every batch exactly once to its store and answers queries.
//!
//! Invariant: the counts and the coverage of an answer come from the same commit.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests spawn tasks directly")
)]

mod anti_entropy;
mod apply;
pub mod catch_up;
mod control;
mod executor;
mod full;
#[cfg(test)]
mod full_tests;
mod gathered;
#[cfg(test)]
mod halt_tests;
mod local;
mod meters;
#[cfg(test)]
mod patience_tests;
mod peer;
mod pending;
mod progress;
mod signing;
#[cfg(test)]
mod signing_tests;
pub mod snapshot;
mod task;
mod waiting;

pub use anti_entropy::{AntiEntropy, AntiEntropyOptions, Cluster, NotReached, Peers};
pub use apply::{Applied, apply, apply_marking};
pub use control::{ControlError, CounterControl};
pub use executor::host;
pub use local::LocalCounter;
pub use task::{CounterError, CounterTask};

use headcount_rpc::{
    Contains, Counts, Coverage, ListQuery, Listing, Peer, Queries, QueryError, ReadRequirement,
    SnapshotStream, Status,
};
