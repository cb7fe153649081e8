//! Clients of counters and coordinators in other processes, over HTTP.
//!
//! Invariant: an unknown outcome is never reported as success, and everything that may be retried
//! says so.

mod counter;
mod known;
mod loss;
mod node;
mod places;
mod query_batcher;
#[cfg(test)]
mod told;

pub use counter::RemoteCounter;
pub use loss::LossClient;
pub use node::NodeClient;

use headcount_client::{ClientError, Reach, cause};
