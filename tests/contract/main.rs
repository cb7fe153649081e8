//! The contracts of `Store` and of the log: one suite each, run against every implementation.
//!
//! Invariant: what is asserted here is what a counter relies on; nothing looks inside a store.

mod amqp;
mod amqp_tests;
mod damage;
mod data_dir;
mod harness;
// Other test binaries use the rest of it.
#[allow(dead_code)]
#[path = "../kit/mod.rs"]
mod kit;
mod log;
mod model;
mod suite;
mod unite;
mod vanishing;
