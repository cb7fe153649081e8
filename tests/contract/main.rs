//! The contract of `Store`: one suite, run against every implementation, and the durable one's own promises.
//!
//! Invariant: what is asserted here is what a counter relies on; nothing looks inside a store.

mod damage;
mod data_dir;
mod harness;
mod log;
mod model;
mod suite;
mod unite;
