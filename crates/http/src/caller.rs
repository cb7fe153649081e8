//! The client of a connection. Detects whether it still waits for the response to its request.
//!
//! Invariant: watching a client consumes none of its input. A read ends when its client resets the
//! connection. When its client closes its side, the read continues for at most [`HALF_CLOSED_MAX`],
//! and is then answered with what is known.
//!
//! The HTTP library does not check a connection while a request is being answered, and it allows a
//! client to close its side after its request. So a client that is gone is detected only here. A
//! read that waits for a client that is gone costs memory, a connection, and one of the limited
//! number of waiting reads.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Version};
use futures_util::FutureExt;
use tokio::io::Interest;
use tokio::time::sleep;

use super::access::Foreign;
use super::connection::{Bytes, Connection, ConnectionOptions, Terms};
use super::error::Problem;
use super::heads::Heads;
use headcount_coordinator::{Read, ReadError, ReadOptions};
use headcount_net::Stream;

/// Maximum wait of a read after its client has closed its side. A client that has closed its socket
/// looks the same.
pub(super) const HALF_CLOSED_MAX: Duration = Duration::from_secs(1);

/// Maximum size of the `Host` that a connection remembers, in bytes. A name is no longer (RFC 1035
/// §2.3.4), and a longer value is not worth the memory.
const HOST_BYTES_MAX: usize = 255;

/// The client of a connection; cheap to clone. The default is a client that never disconnects.
#[derive(Clone, Default)]
pub(super) struct Caller(Option<Arc<Connection>>);

/// Marks that a request is being answered, until it is dropped.
pub(super) struct Answering<'c>(&'c Caller);

/// How a client has closed its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closed {
    /// It sends no more bytes, but may read a response.
    ItsSide,
    /// It neither sends nor reads.
    Both,
}

/// Splits a stream into the client of the connection and its byte stream.
pub(super) fn split(
    stream: Stream,
    terms: Arc<Terms>,
    options: ConnectionOptions,
) -> (Caller, Bytes) {
    let (connection, bytes) = Connection::open(stream, terms, options);
    (Caller(Some(connection)), bytes)
}

impl Caller {
    /// Marks that a request is being answered.
    pub(crate) fn answering(&self) -> Answering<'_> {
        self.set_answering(true);
        Answering(self)
    }

    /// Checks whether a request is allowed. A request with the same `Host` as an earlier one that
    /// passed, and without an `Origin`, is not checked again.
    pub(crate) fn check(&self, heads: &Heads<'_>, version: Version) -> Result<Foreign, Problem> {
        let Some(connection) = &self.0 else {
            return Ok(None);
        };
        let alone = heads
            .host
            .filter(|_| heads.origin.is_none() && !heads.has_more_hosts);
        let known = connection.host.get().map(|host| &**host);
        if alone.is_some() && alone.map(HeaderValue::as_bytes) == known {
            return Ok(None);
        }
        let terms = &connection.terms;
        let foreign = terms.access.check(heads, version, terms.is_local)?;
        if let Some(host) = alone.filter(|host| host.len() <= HOST_BYTES_MAX) {
            connection.host.get_or_init(|| host.as_bytes().into());
        }
        Ok(foreign)
    }

    /// Whether only probes are served on its connection.
    pub(crate) fn only_probes(&self) -> bool {
        self.0.as_ref().is_some_and(|connection| {
            connection.options.only_probes || connection.terms.only_probes
        })
    }

    /// The problem for other requests on a connection that serves only probes.
    pub(crate) fn why_only_probes(&self) -> Problem {
        match &self.0 {
            Some(connection) if connection.options.only_probes => Problem::only_probes(),
            _ => Problem::not_found(),
        }
    }

    fn set_answering(&self, answering: bool) {
        if let Some(connection) = &self.0 {
            connection.answering.store(answering, Ordering::Relaxed);
            connection.has_begun.store(false, Ordering::Relaxed);
        }
    }

    /// Makes the connection, which is closed after this response, read and drop what its client is
    /// still sending. A client that is cut off while it sends does not get to read its response.
    pub(crate) fn linger(&self) {
        if let Some(connection) = &self.0 {
            connection.lingers.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the client of this connection waits for nothing: it has sent a part of a request's
    /// head, or the connection lingers.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.as_deref().is_some_and(|connection| {
            let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
            let is_between = !is(&connection.answering) && !is(&connection.write_waits);
            is_between && (is(&connection.has_begun) || is(&connection.lingers))
        })
    }

    /// Resolves once the client has closed its side or reset the connection.
    async fn closed(&self) -> Closed {
        if let Some(connection) = &self.0 {
            let socket = &connection.write;
            // Each of the two read interests reports that the client has closed its side. This one
            // does not report received bytes: a client may send any number of them for later
            // requests.
            match socket.ready(Interest::PRIORITY | Interest::ERROR).await {
                Ok(ready) if !ready.is_error() && ready.is_read_closed() => return Closed::ItsSide,
                Ok(ready) if !ready.is_error() => {}
                Ok(_) | Err(_) => return Closed::Both,
            }
        }
        std::future::pending().await
    }

    /// Resolves once the client can no longer read a response.
    async fn reset(&self) {
        match &self.0 {
            // An error means that the connection is no longer watched.
            Some(connection) => drop(connection.write.ready(Interest::ERROR).await),
            None => std::future::pending().await,
        }
    }

    /// Resolves when a client that has closed its side resets the connection, or
    /// [`HALF_CLOSED_MAX`] has passed. Returns which.
    async fn has_been_heard(&self) -> Closed {
        tokio::select! {
            () = sleep(HALF_CLOSED_MAX) => Closed::ItsSide,
            () = self.reset() => Closed::Both,
        }
    }

    /// Runs `work`, unless the client is gone before it finishes. A client that has closed its side
    /// counts as gone after [`HALF_CLOSED_MAX`].
    ///
    /// # Errors
    /// If the client is gone. No client sees the problem.
    pub(crate) async fn unless_gone<T>(&self, work: impl Future<Output = T>) -> Result<T, Problem> {
        let gone = async {
            if self.closed().await == Closed::ItsSide {
                self.has_been_heard().await;
            }
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = gone => Err(Problem::client_gone()),
        }
    }

    /// Runs a read while its client is connected. If the client has closed its side for
    /// [`HALF_CLOSED_MAX`], `read` is run again without waiting.
    ///
    /// # Errors
    /// The errors of `read`, or an error if the client is gone, which no client sees.
    pub(crate) async fn read<T, F>(
        &self,
        options: ReadOptions,
        read: impl Fn(ReadOptions) -> F,
    ) -> Result<Read<T>, Problem>
    where
        F: Future<Output = Result<Read<T>, ReadError>>,
    {
        {
            let mut reading = pin!(read(options.clone()));
            // Most reads are answered immediately, and the client need not be watched.
            if let Some(answer) = reading.as_mut().now_or_never() {
                return Ok(answer?);
            }
            let mut closed = tokio::select! {
                biased;
                answer = &mut reading => return Ok(answer?),
                closed = self.closed() => closed,
            };
            if closed == Closed::ItsSide {
                closed = tokio::select! {
                    biased;
                    answer = &mut reading => return Ok(answer?),
                    // Boxed because it is rare: unboxed, it would enlarge the future of every
                    // request.
                    closed = Box::pin(self.has_been_heard()) => closed,
                };
            }
            if closed == Closed::Both {
                return Err(Problem::client_gone());
            }
        }
        let at_once = ReadOptions {
            timeout: Duration::ZERO,
            ..options
        };
        // Boxed for the same reason.
        Ok(Box::pin(read(at_once)).await?)
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.set_answering(false);
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

#[cfg(test)]
#[path = "caller_tests.rs"]
mod tests;
