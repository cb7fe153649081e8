//! HTTP clients: of the public API, between nodes, and of RabbitMQ's management API.
//!
//! Invariant: an outcome that is not known is never reported as success, and whatever may be repeated says so.

mod counter;
mod error;
mod known;
mod lane;
mod loss;
mod management;
mod node;
mod places;
mod public;
mod reach;
#[cfg(test)]
mod told;

pub use crate::counter::exchange::{
    IncompleteCounter, Loss, LossPlan, LossReceipt, LossRequest, NotLost,
};
pub use counter::RemoteCounter;
pub use error::ClientError;
pub use loss::LossClient;
pub use management::{
    Look, ManagementClient, ManagementError, ManagementUrl, ManagementUrlError, NodeState,
    QueueState,
};
pub use node::NodeClient;
pub use public::{CounterItems, CountsRequest, Posted, PublicClient, TenantCount};

/// The error's cause, which says more than that a request failed.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
