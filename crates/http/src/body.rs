//! Receiving request bodies: bounded in size, in time, and in what all of them hold together.
//!
//! Invariant: no part of a body is kept without room for it; no room, no body.

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
    /// Bytes of one body.
    pub body_bytes_max: usize,
    /// Bytes of all bodies being received or parsed.
    pub bodies_bytes_max: usize,
    /// How long one body may take to arrive.
    pub body_timeout: Duration,
}

/// The room that a body holds, and what is made of it: given back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Room(Option<OwnedSemaphorePermit>);

impl Room {
    /// Takes room for so many bytes more, if there is as much. Who holds none yet needs none: its
    /// body is empty.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let Some(held) = &mut self.0 else { return true };
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let more = Arc::clone(held.semaphore()).try_acquire_many_owned(permits);
        more.map(|more| held.merge(more)).is_ok()
    }

    /// The same bytes, which give the room back once all of them are sent, or never will be.
    pub(crate) fn hold(self, bytes: Bytes) -> Bytes {
        struct Held(
            Bytes,
            #[expect(dead_code, reason = "it is dropped with the bytes")] Room,
        );

        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        Bytes::from_owner(Held(bytes, self))
    }
}

/// The room that bodies share.
pub(crate) struct Bodies {
    limits: BodyLimits,
    room: Arc<Semaphore>,
}

impl Bodies {
    /// All room free.
    #[must_use]
    pub(crate) fn new(limits: BodyLimits) -> Self {
        let room = limits.bodies_bytes_max.min(Semaphore::MAX_PERMITS);
        Self {
            limits,
            room: Arc::new(Semaphore::new(room)),
        }
    }

    /// Receives a body. It takes its room until that is dropped.
    pub(crate) async fn receive<B>(&self, body: B) -> Result<(Bytes, Room), Problem>
    where
        B: HttpBody<Data = Bytes, Error: Display> + Unpin,
    {
        // What its head announces.
        if body.size_hint().lower() > self.limits.body_bytes_max as u64 {
            return Err(Problem::body_too_large(self.limits.body_bytes_max));
        }
        // Most bodies came with their head.
        within(self.limits.body_timeout, self.gather(body))
            .await
            .map_err(|_| Problem::request_timeout(self.limits.body_timeout.as_secs_f64()))?
    }

    /// Takes room for each part as it comes: what is only announced takes none.
    async fn gather<B>(&self, mut body: B) -> Result<(Bytes, Room), Problem>
    where
        B: HttpBody<Data = Bytes, Error: Display> + Unpin,
    {
        let mut first = Bytes::new();
        let mut whole = BytesMut::new();
        let mut room: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Problem::unreadable_body(format!("The body broke off: {error}. Post it again."))
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
            // Most bodies come in one part, which then needs no copy.
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
