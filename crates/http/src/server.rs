//! Accepts connections, limits their number and their idle time, and drains them at shutdown.
//!
//! Invariant: the number of open connections is limited, and some of them are reserved for probes.
//! A connection that is idle, or whose client does not read its responses, is closed. After `stop`,
//! running requests are answered within the drain timeout; connections that are still open then
//! are cut.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::Instant;

use super::access::AccessLimits;
use super::caller::Caller;
use super::connection::{ConnectionOptions, Terms};
use super::timer::ConnectionTimer;
use super::{Routes, caller};
use headcount_net::{Listener, SocketPlace, Stream};
use headcount_telemetry as telemetry;

/// Limits of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Maximum number of open connections, in addition to [`PROBE_CONNECTIONS`].
    pub connections_max: usize,
    /// Timeout for idle connections, reading the head of a request and writing a response.
    pub idle_timeout: Duration,
    /// Time for running requests to finish after `stop`.
    pub drain_timeout: Duration,
}

/// Connections that are reserved for probes when `connections_max` is reached. Each serves one
/// probe; any other request on it is rejected. Further connections wait in the backlog of the
/// operating system.
pub const PROBE_CONNECTIONS: usize = 16;

/// Timeout for reading the head of a request on a connection that is reserved for probes. It is
/// short because other probes may need the connection.
const PROBE_HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after the system failed to accept a connection for lack of file descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(250);

/// Time for the rest of a request's head to arrive after `stop`, and the interval at which that is
/// checked.
const HEAD_GRACE: Duration = Duration::from_secs(1);

/// Where connections are accepted, and under which terms.
#[derive(Debug)]
pub struct Endpoint {
    /// The listening socket.
    pub listener: Listener,
    /// Which origins and host names are allowed.
    pub access: AccessLimits,
    /// Limits of connections.
    pub limits: ServerLimits,
    /// Whether only `/healthz`, `/readyz` and `/metrics` are served.
    pub only_probes: bool,
}

impl Endpoint {
    /// Creates an endpoint for all requests, with the default access limits: only pages of the
    /// service itself are allowed.
    #[must_use]
    pub fn new(listener: impl Into<Listener>, limits: ServerLimits) -> Self {
        Self {
            listener: listener.into(),
            access: AccessLimits::default(),
            limits,
            only_probes: false,
        }
    }
}

/// Serves `routes` at `endpoint` until `stop` resolves, then drains. Returns the number of
/// connections that were cut because their requests exceeded the drain timeout.
pub async fn serve(endpoint: Endpoint, routes: Routes, stop: impl Future<Output = ()>) -> usize {
    let Endpoint {
        listener,
        access,
        limits,
        only_probes,
    } = endpoint;
    let place = listener.place();
    let terms = Terms {
        access,
        // A web page cannot make a browser connect to a Unix socket.
        is_local: matches!(place, Ok(SocketPlace::Tcp(address)) if address.ip().is_loopback()),
        only_probes,
    };
    let mut open = Open::new(routes, terms, limits);
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = open.room.accept(&listener, limits) => accepted,
            // Removes connections as they end, so that the set does not grow.
            Some(ended) = open.connections.join_next_with_id() => {
                open.forget(ended);
                continue;
            }
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, place)) => open.add(stream, place),
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed; retrying");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    open.drain().await
}

/// Permits for connections.
struct Room {
    any: Arc<Semaphore>,
    probes: Arc<Semaphore>,
}

/// The permit of a connection and its share of the gauge; dropping it releases both.
struct Place {
    _permit: OwnedSemaphorePermit,
    only_probes: bool,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit, only_probes: bool) -> Self {
        metrics::gauge!(telemetry::CONNECTIONS).increment(1.0);
        Self {
            _permit: permit,
            only_probes,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::gauge!(telemetry::CONNECTIONS).decrement(1.0);
    }
}

impl Room {
    /// Accepts a connection once a permit is available.
    async fn accept(
        &self,
        listener: &Listener,
        limits: ServerLimits,
    ) -> io::Result<(Stream, Place)> {
        let (permit, only_probes) = tokio::select! {
            biased;
            permit = Arc::clone(&self.any).acquire_owned() => (permit, false),
            permit = Arc::clone(&self.probes).acquire_owned() => (permit, true),
        };
        let permit = permit.map_err(io::Error::other)?;
        let stream = listener.accept().await?;
        stream.set_nodelay()?;
        stream.set_untaken_timeout(limits.idle_timeout)?;
        Ok((stream, Place::new(permit, only_probes)))
    }
}

/// The open connections.
struct Open {
    routes: Routes,
    terms: Arc<Terms>,
    limits: ServerLimits,
    room: Room,
    graceful: GracefulShutdown,
    connections: JoinSet<()>,
    callers: HashMap<Id, (Caller, AbortHandle)>,
}

impl Open {
    fn new(routes: Routes, terms: Terms, limits: ServerLimits) -> Self {
        Self {
            routes,
            terms: Arc::new(terms),
            limits,
            room: Room {
                any: Arc::new(Semaphore::new(limits.connections_max)),
                probes: Arc::new(Semaphore::new(PROBE_CONNECTIONS)),
            },
            graceful: GracefulShutdown::new(),
            connections: JoinSet::new(),
            callers: HashMap::new(),
        }
    }

    fn add(&mut self, stream: Stream, place: Place) {
        let options = ConnectionOptions {
            only_probes: place.only_probes,
            untaken_timeout: (!stream.is_given_up_by_the_system())
                .then_some(self.limits.idle_timeout),
        };
        let (caller, bytes) = caller::split(stream, Arc::clone(&self.terms), options);
        let (routes, of_answers) = (self.routes.clone(), caller.clone());
        let answer = move |request| routes.clone().answer(request, of_answers.clone());
        let idle_timeout = match place.only_probes {
            true => self.limits.idle_timeout.min(PROBE_HEAD_TIMEOUT),
            false => self.limits.idle_timeout,
        };
        let connection = http1::Builder::new()
            .timer(ConnectionTimer::default())
            .header_read_timeout(idle_timeout)
            // A client may close its side after its request and still wait for the response;
            // `caller` detects a client that is gone.
            .half_close(true)
            .serve_connection(TokioIo::new(bytes), service_fn(answer));
        let watched = self.graceful.watch(connection);
        #[expect(clippy::disallowed_methods, reason = "one connection")]
        let task = self.connections.spawn(async move {
            let _place = place;
            if let Err(error) = watched.await {
                tracing::debug!(%error, "connection ended with an error");
            }
        });
        self.callers.insert(task.id(), (caller, task));
    }

    fn forget(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "request handler panicked; connection closed");
                }
                error.id()
            }
        };
        self.callers.remove(&id);
    }

    /// Waits until all requests are answered, and cuts connections whose requests exceed the drain
    /// timeout. Returns the number of connections that were cut.
    async fn drain(mut self) -> usize {
        let deadline = Instant::now() + self.limits.drain_timeout;
        let graceful = std::mem::take(&mut self.graceful);
        let mut answered = std::pin::pin!(graceful.shutdown());
        loop {
            let look = deadline.min(Instant::now() + HEAD_GRACE);
            if tokio::time::timeout_at(look, &mut answered).await.is_ok() {
                return 0;
            }
            while let Some(ended) = self.connections.try_join_next_with_id() {
                self.forget(ended);
            }
            // No client waits for a response on an idle connection, and the rest of its head may
            // never arrive.
            for (caller, task) in self.callers.values() {
                if caller.is_idle() {
                    task.abort();
                }
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        self.connections.abort_all();
        let mut cut = 0;
        while let Some(ended) = self.connections.join_next_with_id().await {
            let id = ended
                .as_ref()
                .map_or_else(|error| error.id(), |(id, ())| *id);
            let waited = self
                .callers
                .get(&id)
                .is_some_and(|(caller, _)| !caller.is_idle());
            cut += usize::from(ended.is_err() && waited);
        }
        cut
    }
}
