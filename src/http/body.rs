//! Receiving request bodies: bounded in size, in time, and in what all of them hold together.
//!
//! Invariant: before a body is received, room for all of it is reserved; no room, no body.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::Problem;

/// Limits of bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes of one body.
    pub body_bytes_max: usize,
    /// Bytes of all bodies being received or parsed.
    pub bodies_bytes_max: usize,
    /// How long one body may take to arrive.
    pub body_timeout: Duration,
}

/// The room that bodies share.
pub struct Bodies {
    limits: BodyLimits,
    room: Arc<Semaphore>,
}

impl Bodies {
    /// All room free.
    #[must_use]
    pub fn new(limits: BodyLimits) -> Self {
        let room = limits.bodies_bytes_max.min(Semaphore::MAX_PERMITS);
        Self {
            limits,
            room: Arc::new(Semaphore::new(room)),
        }
    }

    /// Receives a body. The permit holds its room until the body is done with.
    pub async fn receive(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<(Bytes, SemaphorePermit<'_>), Problem> {
        let bytes_max = self.limits.body_bytes_max;
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|bytes| bytes > bytes_max) {
            return Err(Problem::body_too_large(bytes_max));
        }
        let reserve = u32::try_from(announced.unwrap_or(bytes_max)).unwrap_or(u32::MAX);
        let permit = self
            .room
            .try_acquire_many(reserve)
            .map_err(|_| Problem::bodies_in_flight())?;
        let received = Limited::new(body, bytes_max).collect();
        match tokio::time::timeout(self.limits.body_timeout, received).await {
            Ok(Ok(body)) => Ok((body.to_bytes(), permit)),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                Err(Problem::body_too_large(bytes_max))
            }
            Ok(Err(error)) => Err(Problem::unreadable_body(format!(
                "The body broke off: {error}. Post it again."
            ))),
            Err(_) => Err(Problem::request_timeout(
                self.limits.body_timeout.as_secs_f64(),
            )),
        }
    }
}
