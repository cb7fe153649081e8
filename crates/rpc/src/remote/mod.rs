//! Counters and coordinators of other processes, asked over HTTP.
//!
//! Invariant: an outcome that is not known is never reported as success, and whatever may be
//! repeated says so.

mod counter;
mod known;
mod lane;
mod loss;
mod node;
mod places;
#[cfg(test)]
mod told;

pub use counter::RemoteCounter;
pub use loss::LossClient;
pub use node::NodeClient;
#[cfg(feature = "test-util")]
pub use places::WAITING_MAX;

use headcount_client::{ClientError, Reach, cause};
