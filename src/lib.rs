//! Headcount
pub mod cli;
pub mod client;
pub mod config;
pub mod coordinator;
pub mod counter;
pub mod http;
pub mod log;
pub mod model;
pub mod node;
pub mod store;
pub mod telemetry;
