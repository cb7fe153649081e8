//! The contract of the log: one suite, run against every implementation.
//!
//! Invariant: what is asserted here is what coordinators and counters rely on.

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

mod amqp;
mod amqp_tests;
mod copies;
mod counter;
mod elsewhere;
mod generations;
// Other test binaries use the rest of it.
#[allow(dead_code)]
#[path = "../kit/mod.rs"]
mod kit;
mod log;
mod vanishing;
