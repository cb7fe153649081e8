//! The client at the other end of a connection: whether it still wants the answer to its read.
//!
//! Invariant: who watches a client reads nothing of what it sends. A read whose client has reset
//! the connection goes on no longer, one whose client has ended its side no longer than
//! [`HALF_CLOSED_MAX`], and is answered then with what is known.
//!
//! The server does not look at a connection while a request is being answered, and allows a client
//! to end its side after its request. So a client that has gone shows only here, and to wait for
//! what nobody will take costs memory, a connection, and a place among the reads that wait.

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

/// How long a read may wait after its client has ended its side: one that has closed its socket
/// looks the same.
pub(super) const HALF_CLOSED_MAX: Duration = Duration::from_secs(1);

/// Bytes of a `Host` that a connection remembers: a name has no more (RFC 1035 §2.3.4), and longer
/// ones are not worth the memory.
const HOST_BYTES_MAX: usize = 255;

/// A connection's client; cheap to clone. The default is one that never goes.
#[derive(Clone, Default)]
pub(super) struct Caller(Option<Arc<Connection>>);

/// That a request is being answered, for as long as this is kept.
pub(super) struct Answering<'c>(&'c Caller);

/// How a client has closed its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closed {
    /// It sends nothing more, and may take an answer.
    ItsSide,
    /// It takes nothing either.
    Both,
}

/// The client of a connection, and its bytes.
pub(super) fn split(
    stream: Stream,
    terms: Arc<Terms>,
    options: ConnectionOptions,
) -> (Caller, Bytes) {
    let (connection, bytes) = Connection::open(stream, terms, options);
    (Caller(Some(connection)), bytes)
}

impl Caller {
    /// Notes that a request is being answered.
    pub(crate) fn answering(&self) -> Answering<'_> {
        self.set_answering(true);
        Answering(self)
    }

    /// Lets a request pass, or says why not.
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

    /// Whether nothing but probes is answered on its connection.
    pub(crate) fn only_probes(&self) -> bool {
        self.0.as_ref().is_some_and(|connection| {
            connection.options.only_probes || connection.terms.only_probes
        })
    }

    /// Why there is nothing but probes.
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

    /// Has the connection, which is closed after this answer, read and drop what its client is
    /// still sending: one that is cut off in that does not come to read its answer.
    pub(crate) fn linger(&self) {
        if let Some(connection) = &self.0 {
            connection.lingers.store(true, Ordering::Relaxed);
        }
    }

    /// Whether nobody waits for anything on this connection: it has sent a part of a request's
    /// head, or only lingers.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.as_deref().is_some_and(|connection| {
            let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
            let is_between = !is(&connection.answering) && !is(&connection.write_waits);
            is_between && (is(&connection.has_begun) || is(&connection.lingers))
        })
    }

    /// Resolves once the client has closed its connection in one way or the other.
    async fn closed(&self) -> Closed {
        if let Some(connection) = &self.0 {
            let socket = &connection.write;
            // That the client has ended its side comes with either of the interests to read; this
            // one leaves out that bytes have come, of which a client may send any number for later
            // requests.
            match socket.ready(Interest::PRIORITY | Interest::ERROR).await {
                Ok(ready) if !ready.is_error() && ready.is_read_closed() => return Closed::ItsSide,
                Ok(ready) if !ready.is_error() => {}
                Ok(_) | Err(_) => return Closed::Both,
            }
        }
        std::future::pending().await
    }

    /// Resolves once the client takes no answer any more.
    async fn reset(&self) {
        match &self.0 {
            // An error says that it watches no longer.
            Some(connection) => drop(connection.write.ready(Interest::ERROR).await),
            None => std::future::pending().await,
        }
    }

    /// Resolves, with how the connection is then, once a client that has ended its side has had all
    /// the time that it may.
    async fn has_been_heard(&self) -> Closed {
        tokio::select! {
            () = sleep(HALF_CLOSED_MAX) => Closed::ItsSide,
            () = self.reset() => Closed::Both,
        }
    }

    /// The outcome of `work`, unless the client has gone before: half closed is gone after a while.
    ///
    /// # Errors
    /// When it has gone; nobody will see the problem.
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

    /// The answer to a read, as long as the client wants it: once it has ended its side for a
    /// while, `read` is done anew without waiting.
    ///
    /// # Errors
    /// Those of `read`; or when the client has gone, and nobody will see the problem.
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
            // Mostly the answer is at hand, and nobody has to be watched.
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
                    // Boxed, since it is rare: otherwise every request would have to have room for
                    // it.
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
        // Boxed as well.
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
