//! Headcount counts items per tenant, each item once. A crash neither loses nor duplicates an item.
//!
//! Invariant: data flows one way, `http → coordinator → log → counter → store`, and answers flow
//! back. ARCHITECTURE.md lists the allowed imports between modules; `tests/tidy` checks them.
//!
//! ```text
//!                  POST /items                          GET /items/{tenant}/count
//!                       │                                        │
//!   http ───────────────▼────────────────────────────────────────▼──── http
//!   coordinator   admission → batcher (group commit)      reads: fan-out, wait, merge
//!                       │                                        │
//!   log               append                                     │
//!                       │                                        │
//!   counter       apply: dedup, count, position ◄────────────────┘  counts + position
//!                       │
//!   store         one atomic commit: keys, counts, position
//! ```
//!
//! | module | contents |
//! |---|---|
//! | [`model`] | values: items, tenants, batches, positions |
//! | [`log`] | the log, which carries batches from coordinators to counters, and its contract |
//! | [`store`] | the store of a counter, and its contract; the disk engine is [`store::disk`] |
//! | [`counter`] | applies each batch exactly once, answers queries |
//! | [`coordinator`] | admits items, groups them into batches, merges answers |
//! | [`http`] | the public API |
//! | [`client`] | clients of the API |
//! | [`clock`] | the wall clock |
//! | [`socket`] | listeners and connections: TCP addresses and Unix socket paths |
//! | [`supervisor`] | supervises the tasks that a node depends on |
//! | [`config`], [`cli`] | settings; commands |
//! | [`node`], [`telemetry`] | composition of a node; logs and metrics |

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

/// The counter, and the contract of its queries.
pub mod counter {
    pub use headcount_counter::*;
    pub use headcount_rpc::messages as exchange;
    pub use headcount_rpc::{
        Contains, Counts, Coverage, ListQuery, Listing, Peer, Queries, QueryError, ReadRequirement,
        SnapshotStream, Status,
    };
}

/// Clients of the public API, of other nodes and of the broker.
pub mod client {
    pub use headcount_client::*;
    pub use headcount_log_amqp::management::*;
    pub use headcount_rpc::messages::{
        IncompleteCounter, Loss, LossPlan, LossReceipt, LossRequest, NotLost,
    };
    pub use headcount_rpc::remote::*;
}

/// The log and its implementations.
pub mod log {
    pub use headcount_log::*;
    pub use headcount_log_amqp as amqp;
}
