//! The contract of `Store`: one suite, run against every implementation. And what only a store on
//! disk has: a folder, and files that can be damaged.
//!
//! Invariant: what is asserted here is what a counter relies on; nothing looks inside a store.
//! Nothing here starts a process: between its fork and its exec, a child has the lock of every
//! folder that is open in its parent.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "these are tests"
)]

mod damage;
mod data_dir;
mod harness;
mod ingest;
mod model;
mod read_only;
mod released;
mod suite;
