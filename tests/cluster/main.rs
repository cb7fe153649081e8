//! The distributed system: real coordinators and counters around a real RabbitMQ, and everything
//! that can happen to them.
//!
//! Invariant: a test starts what it needs, breaks only what it started, and asserts what a user
//! would notice.

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
mod asking;
mod broker_tests;
// Other test binaries use the rest of it.
#[allow(dead_code, unused_imports)]
#[path = "../checker/mod.rs"]
mod checker;
mod cluster;
mod copies;
mod ending;
mod faults;
mod founded_alone;
mod full_disk;
mod healing;
// Other test binaries use the rest of it.
mod invariant_checker;
#[allow(dead_code)]
#[path = "../kit/mod.rs"]
mod kit;
mod lagging;
mod limits;
mod member;
mod operator;
mod panics;
mod relay_tests;
mod remaking;
mod restore;
mod risks;
mod setup;
mod signing;
mod strangers;
mod three_nodes;
mod tls;
mod traffic;
mod waiting;

use kit::{
    broker, broker_cluster, broker_node, node, process, readme, reaper, small_disk, tcp_proxy,
    vhost, wait,
};
