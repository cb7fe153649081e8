//! A counter: a replica that applies every batch exactly once to its store and answers queries.
//!
//! Invariant: the counts and the coverage of an answer come from the same commit.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests spawn tasks directly")
)]

pub mod catch_up;
mod control;
mod full;
#[cfg(test)]
mod full_tests;
mod gathered;
#[cfg(test)]
mod halt_tests;
mod healer;
mod host;
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
mod step;
mod task;
mod waiting;

pub use control::{ControlError, CounterControl};
pub use healer::{Cluster, Healer, HealerOptions, NotReached, Peers};
pub use host::host;
pub use local::LocalCounter;
pub use step::{Applied, apply, apply_marking};
pub use task::{CounterError, CounterTask};

use headcount_rpc::{
    Counts, Cover, Demand, ListQuery, Listing, Membership, Peer, Queries, QueryError,
    SnapshotStream, Status,
};
