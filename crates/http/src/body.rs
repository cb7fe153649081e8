//! Receives request bodies, with limits on the size and time of each body and on the size of all
//! bodies together.
//!
//! Invariant: no part of a body is kept without reserving room for it. If there is no room, the
//! body is rejected.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::body::HttpBody;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Problem;
use headcount_runtime::clock::within;

/// Limits of bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// Maximum size of one body, in bytes.
    pub body_bytes_max: usize,
    /// Maximum size of all bodies that are being received or parsed, in bytes.
    pub bodies_bytes_max: usize,
    /// Timeout for one body to arrive.
    pub body_timeout: Duration,
}

/// Room reserved for a body and for what is derived from it; released on drop.
#[derive(Debug, Default)]
pub(crate) struct Room(Option<OwnedSemaphorePermit>);

impl Room {
    /// Reserves room for `bytes` more bytes, and returns whether it succeeded. It always succeeds
    /// for an empty body, which holds no room and needs none.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let Some(held) = &mut self.0 else { return true };
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let more = Arc::clone(held.semaphore()).try_acquire_many_owned(permits);
        more.map(|more| held.merge(more)).is_ok()
    }

    /// Returns the same bytes, which release the room when they are sent or dropped.
    pub(crate) fn hold(self, bytes: Bytes) -> Bytes {
        struct Held(
            Bytes,
            #[expect(dead_code, reason = "held until the bytes are dropped")] Room,
        );

        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        Bytes::from_owner(Held(bytes, self))
    }
}

/// The room that all bodies share.
pub(crate) struct Bodies {
    limits: BodyLimits,
    room: Arc<Semaphore>,
}

impl Bodies {
    /// Creates the shared room; all of it is free.
    #[must_use]
    pub(crate) fn new(limits: BodyLimits) -> Self {
        let room = limits.bodies_bytes_max.min(Semaphore::MAX_PERMITS);
        Self {
            limits,
            room: Arc::new(Semaphore::new(room)),
        }
    }

    /// Receives a body. Its room is reserved until the returned [`Room`] is dropped.
    pub(crate) async fn receive<B>(&self, body: B) -> Result<(Bytes, Room), Problem>
    where
        B: HttpBody<Data = Bytes, Error: Display> + Unpin,
    {
        // The size that `Content-Length` announces.
        if body.size_hint().lower() > self.limits.body_bytes_max as u64 {
            return Err(Problem::body_too_large(self.limits.body_bytes_max));
        }
        // Most bodies arrive together with the head, so the timer is rarely needed.
        within(self.limits.body_timeout, self.gather(body))
            .await
            .map_err(|_| Problem::request_timeout(self.limits.body_timeout.as_secs_f64()))?
    }

    /// Reserves room for each part when it arrives. Bytes that are only announced reserve none.
    async fn gather<B>(&self, mut body: B) -> Result<(Bytes, Room), Problem>
    where
        B: HttpBody<Data = Bytes, Error: Display> + Unpin,
    {
        let mut first = Bytes::new();
        let mut whole = BytesMut::new();
        let mut room: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Problem::unreadable_body(format!("The body ended early: {error}. Resend it."))
            })?;
            let Ok(part) = frame.into_data() else {
                continue;
            };
            if first.len() + whole.len() + part.len() > self.limits.body_bytes_max {
                return Err(Problem::body_too_large(self.limits.body_bytes_max));
            }
            let permits = u32::try_from(part.len()).unwrap_or(u32::MAX);
            let more = Arc::clone(&self.room)
                .try_acquire_many_owned(permits)
                .map_err(|_| Problem::bodies_in_flight())?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
            // Most bodies arrive in one part, which is not copied.
            if first.is_empty() && whole.is_empty() {
                first = part;
            } else {
                if whole.is_empty() {
                    whole.extend_from_slice(&std::mem::take(&mut first));
                }
                whole.extend_from_slice(&part);
            }
        }
        let body = if whole.is_empty() {
            first
        } else {
            whole.freeze()
        };
        Ok((body, Room(room)))
    }
}
