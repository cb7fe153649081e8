//! Reads and drops the rest of bodies that no handler has read to their end, before the response is
//! sent. So the response reaches clients that send the whole body before they read, and the
//! connection can be reused.
//!
//! Invariant: a dropped body takes no memory and a bounded time. If a body is left unread, the
//! response says that the connection is closed, and the connection lingers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::HttpBody;
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;

use super::caller::Caller;
use headcount_runtime::clock::within;

/// Maximum number of dropped bytes after which the connection is kept open.
const KEPT_BYTES_MAX: u64 = 1024 * 1024;
/// Maximum number of bytes of a body that are read and dropped.
const DROPPED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Maximum time for reading and dropping a body.
const DROPPED_TIME_MAX: Duration = Duration::from_secs(30);
/// Maximum pause of the client between two parts. A client that waits for the response before it
/// sends more then gets it.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Reads and drops the rest of a request's body. Sets `Connection: close` in the response if the
/// connection cannot be kept.
pub(super) async fn settle<B, A>(
    body: B,
    waits_to_continue: bool,
    response: &mut Response<A>,
    caller: &Caller,
) where
    B: HttpBody<Data = Bytes> + Unpin,
{
    // The rest of a body that arrived too slowly is not read.
    let is_slow = response.status() == StatusCode::REQUEST_TIMEOUT;
    let dropped = match waits_to_continue || is_slow {
        true => None,
        false => within(DROPPED_TIME_MAX, drop_all(body))
            .await
            .ok()
            .flatten(),
    };
    if dropped.is_none() {
        caller.linger();
    }
    if dropped.is_none_or(|bytes| bytes > KEPT_BYTES_MAX) {
        close_after(response);
    }
}

/// Sets `Connection: close` in the response, so that the connection is closed after it.
pub(super) fn close_after<A>(response: &mut Response<A>) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
}

/// Reads and drops a body. Returns its number of bytes, or `None` if it failed, paused too long or
/// was too large.
async fn drop_all<B: HttpBody<Data = Bytes> + Unpin>(mut body: B) -> Option<u64> {
    let mut dropped = 0;
    while let Some(frame) = within(PAUSE_MAX, body.frame()).await.ok()? {
        let frame = frame.ok()?;
        dropped += frame.data_ref().map_or(0, |data| data.len() as u64);
        if dropped > DROPPED_BYTES_MAX {
            return None;
        }
    }
    Some(dropped)
}

/// The place to which a lent body is returned.
pub(super) type Back<B> = Arc<Mutex<Option<B>>>;

/// A body that is returned on drop if it was not read to its end.
pub(super) struct Lent<B> {
    body: Option<B>,
    back: Back<B>,
}

/// Lends a body to a handler that may drop it.
pub(super) fn lend<B>(body: Option<B>) -> (Lent<B>, Back<B>) {
    let back = Back::default();
    let lent = Lent {
        body,
        back: Arc::clone(&back),
    };
    (lent, back)
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Lent<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.as_ref().map(HttpBody::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}

impl<B> Drop for Lent<B> {
    fn drop(&mut self) {
        *self.back.lock() = self.body.take();
    }
}
