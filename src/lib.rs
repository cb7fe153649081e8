//! Headcount counts items per tenant, each item once, and never loses or doubles one, whatever
//! crashes.
//!
//! Invariant: data flows one way, `http → coordinator → log → counter → store`, and answers come
//! back; who may import whom is written in ARCHITECTURE.md and checked by `tests/tidy`.
//!
//! ```text
//!                  POST /items                          GET /items/{tenant}/count
//!                       │                                        │
//!   http ───────────────▼────────────────────────────────────────▼──── http
//!   coordinator   admission → batcher (group commit)      reads: ask, wait, merge
//!                       │                                        │
//!   log               append                                     │
//!                       │                                        │
//!   counter       step: dedup, count, position  ◄────────────────┘  counts + position
//!                       │
//!   store         one atomic commit: keys, counts, position
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`model`] | items, tenants, batches, positions: plain values |
//! | [`log`] | the way of every batch from a coordinator to its counters, and its contract |
//! | [`store`] | what a counter remembers, and its contract; the disk engine is [`store::disk`] |
//! | [`counter`] | applies every batch exactly once, answers queries |
//! | [`coordinator`] | admits items, groups them into batches, merges answers |
//! | [`http`] | the public API |
//! | [`client`] | clients of that API |
//! | [`clock`] | the time of day |
//! | [`socket`] | where nodes listen and connect: an address, or a path |
//! | [`supervisor`] | watches over the tasks that a node can't do without |
//! | [`config`], [`cli`], [`node`], [`telemetry`] | settings, commands, composition, logs and metrics |

pub mod cli;
pub mod config;
pub mod node;
pub mod telemetry;

pub use headcount_coordinator as coordinator;
pub use headcount_http as http;
pub use headcount_model as model;
pub use headcount_net as socket;
pub use headcount_runtime::{clock, supervisor};
pub use headcount_store as store;

/// A counter, and the contract of its queries.
pub mod counter {
    pub use headcount_counter::*;
    pub use headcount_rpc::messages as exchange;
    pub use headcount_rpc::{
        Counts, Cover, Demand, ListQuery, Listing, Membership, Peer, Queries, QueryError,
        SnapshotStream, Status,
    };
}

/// Clients.
pub mod client {
    pub use headcount_client::*;
    pub use headcount_log_amqp::management::*;
    pub use headcount_rpc::messages::{
        IncompleteCounter, Loss, LossPlan, LossReceipt, LossRequest, NotLost,
    };
    pub use headcount_rpc::remote::*;
}

/// The log, and its implementations.
pub mod log {
    pub use headcount_log::*;
    pub use headcount_log_amqp as amqp;
}
