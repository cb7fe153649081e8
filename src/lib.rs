//! Headcount counts items per tenant, each item once, and never loses or doubles one, whatever crashes.
//!
//! Invariant: data flows one way, `http → coordinator → log → counter → store`, and answers come back; who may
//! import whom is written in ARCHITECTURE.md and checked by `tests/tidy`.
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
pub mod client;
pub mod clock;
pub mod config;
pub mod coordinator;
pub mod counter;
pub mod http;
pub mod log;
pub mod model;
pub mod node;
pub mod socket;
pub mod store;
pub mod supervisor;
pub mod telemetry;
