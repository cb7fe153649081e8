//! The contract of the log: one suite, run against every implementation.
//!
//! Invariant: what is asserted here is what coordinators and counters rely on.

mod amqp;
mod amqp_tests;
mod copies;
mod elsewhere;
mod generations;
// Other test binaries use the rest of it.
#[allow(dead_code)]
#[path = "../kit/mod.rs"]
mod kit;
mod log;
mod vanishing;
