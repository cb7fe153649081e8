//! The log: the way of every batch from a coordinator to its counters.
//!
//! Contract, for every implementation:
//! - [`Log::append`] returns `Ok` only when the batch is durable and will reach every counter.
//! - Deliveries come at least once, in the order of their appends but for redelivery.
//! - Acknowledging means committed: what is not acknowledged comes again, or its append never returned `Ok`.

mod local;
pub mod wire;

pub use local::{LocalDeliveries, LocalLog, local};

use std::future::Future;
use std::sync::Arc;

use thiserror::Error;

use crate::model::{Batch, TenantItems};

/// Why an append did not return `Ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The log ended while the batch was on its way: it may or may not become durable.
    #[error("the log ended; the batch may or may not be durable")]
    OutcomeUnknown,
}

/// The appending end; cheap to clone.
pub trait Log: Clone + Send + Sync + 'static {
    /// Appends a batch and waits until it is durable.
    ///
    /// The caller keeps one append in flight per (epoch, partition), so that a gap in the sequences is proof
    /// of loss, never of a race. Dropping the future does not take the batch back.
    fn append(&self, batch: Arc<Batch>) -> impl Future<Output = Result<(), AppendError>> + Send;
}

/// The consuming end, owned by one counter.
pub trait Deliveries: Send + 'static {
    /// Waits for deliveries and returns all that are there, at most a bounded number; `None` once every
    /// appending end is gone and nothing is left. Dropping the future loses nothing.
    fn next(&mut self) -> impl Future<Output = Option<Vec<Arc<Batch>>>> + Send;

    /// Acknowledges everything that [`next`](Self::next) has returned so far.
    fn acknowledge(&mut self) -> impl Future<Output = ()> + Send;
}

/// Bytes that a tenant's items take at most in an encoded batch: what limits on batches count.
#[must_use]
pub fn encoded_bytes(items: &TenantItems) -> usize {
    wire::tenant_bytes(items)
}
