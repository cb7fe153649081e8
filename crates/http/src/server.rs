//! Accepting connections: how many, how slow, and how they end.
//!
//! Invariant: no more connections are open than allowed, and some of those are kept for probes.
//! None stays for ever: one that is idle, or does not take its answers, is closed. After `stop`,
//! running requests are answered within the time to drain; what is still open then is cut.

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
    /// Connections open at once, beside [`PROBE_CONNECTIONS`].
    pub connections_max: usize,
    /// How long a connection may be idle, take over a request's head, or leave an answer untaken.
    pub idle_timeout: Duration,
    /// How long requests may take to finish after `stop`.
    pub drain_timeout: Duration,
}

/// Connections that are kept for probes when all others are open: each answers one, and whoever
/// else comes by one is refused. Further ones wait in the system's backlog.
pub const PROBE_CONNECTIONS: usize = 16;

/// How long a connection that is kept for probes may take over a request's head: others may need
/// it.
const PROBE_HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait after the system refused a connection for want of files or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(250);

/// How long the rest of a request's head may take after `stop`, and how often that is looked at.
const HEAD_GRACE: Duration = Duration::from_secs(1);

/// Where connections come in, and on which terms.
#[derive(Debug)]
pub struct Endpoint {
    /// What accepts them.
    pub listener: Listener,
    /// Who may ask.
    pub access: AccessLimits,
    /// Limits of connections.
    pub limits: ServerLimits,
    /// Whether nothing but `/healthz`, `/readyz` and `/metrics` is answered.
    pub only_probes: bool,
}

impl Endpoint {
    /// For all requests, and for the service's own pages.
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

/// Serves `routes` at `endpoint` until `stop` resolves, then drains. Returns how many connections
/// were cut because their requests took longer than the time to drain.
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
        // No page can have a browser connect to a path.
        is_local: matches!(place, Ok(SocketPlace::Tcp(address)) if address.ip().is_loopback()),
        only_probes,
    };
    let mut open = Open::new(routes, terms, limits);
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = open.room.accept(&listener, limits) => accepted,
            // Ended connections are forgotten as they end.
            Some(ended) = open.connections.join_next_with_id() => {
                open.forget(ended);
                continue;
            }
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, place)) => open.add(stream, place),
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    open.drain().await
}

/// The places that connections take.
struct Room {
    any: Arc<Semaphore>,
    probes: Arc<Semaphore>,
}

/// A connection's place, and its share in the gauge, however it ends.
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
    /// Accepts a connection once there is a place for it.
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

/// The connections that are open.
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
            // A client may end its side after its request and still wait for the answer; `caller`
            // tells one that has gone.
            .half_close(true)
            .serve_connection(TokioIo::new(bytes), service_fn(answer));
        let watched = self.graceful.watch(connection);
        #[expect(clippy::disallowed_methods, reason = "one connection")]
        let task = self.connections.spawn(async move {
            let _place = place;
            if let Err(error) = watched.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
        self.callers.insert(task.id(), (caller, task));
    }

    fn forget(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a request panicked; its connection is closed");
                }
                error.id()
            }
        };
        self.callers.remove(&id);
    }

    /// Waits until all requests are answered, and cuts what takes longer; returns how many
    /// connections that was.
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
            // Nobody waits for an answer there, and the rest of the head may never come.
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
