//! Integration tests: the real program, started, asked and killed as its users would.
//!
//! Invariant: nothing here looks inside the process; every claim is checked through what a user can
//! see.

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

mod api;
mod bench;
mod bodies;
// Other test binaries use the rest of it.
#[allow(dead_code, unused_imports)]
#[path = "../checker/mod.rs"]
mod checker;
mod cli;
mod clients;
mod crash;
mod deploy;
mod edge;
mod folder;
mod full_disk;
// Other test binaries use the rest of it.
#[allow(dead_code)]
#[path = "../kit/mod.rs"]
mod kit;
mod lifecycle;
mod limits;
mod load;
mod log_lines;
mod readme;
mod reads;
mod refusals;
mod risks;
mod sockets;
mod waiting;

use kit::node;
