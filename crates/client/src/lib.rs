//! A client of the public API.
//!
//! Invariant: an unknown outcome is never reported as success, and every error says whether the
//! request can be retried.

mod error;
mod public;
mod reach;

pub use error::ClientError;
pub use public::{CounterItems, CountsRequest, Posted, PublicClient, TenantCount};
pub use reach::Reach;

/// Returns the root cause of an error, which says more than that a request failed.
pub fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
