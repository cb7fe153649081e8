//! The test kit: what the tests of more than one binary start, break and wait for.
//!
//! Invariant: whatever it started is gone with the test process, however that ends.

pub mod broker;
pub mod broker_cluster;
pub mod broker_node;
pub mod node;
pub mod process;
pub mod rabbitmq;
pub mod readme;
pub mod reaper;
pub mod small_disk;
pub mod tcp_proxy;
pub mod vhost;
pub mod wait;
pub mod waiting;
