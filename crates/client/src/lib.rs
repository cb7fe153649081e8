//! A client of the public API.
//!
//! Invariant: an outcome that is not known is never reported as success, and whatever may be
//! repeated says so.

mod error;
mod public;
mod reach;

pub use error::ClientError;
pub use public::{CounterItems, CountsRequest, Posted, PublicClient, TenantCount};
pub use reach::Reach;

/// The error's cause, which says more than that a request failed.
pub fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
