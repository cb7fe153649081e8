//! Integration tests: the real program, started, asked and killed as its users would.
//!
//! Invariant: nothing here looks inside the process; every claim is checked through what a user can see.

mod api;
mod cli;
mod crash;
mod deploy;
mod lifecycle;
mod limits;
mod node;
mod readme;
mod risks;
