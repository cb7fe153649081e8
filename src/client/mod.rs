//! HTTP clients: of the public API here, between nodes later.
//!
//! Invariant: an outcome that is not known is never reported as success, and whatever may be repeated says so.

mod public;

pub use public::{ClientError, CountsRequest, PublicClient, TenantCount};
