//! Accepting connections: how many, how slow, and how they end.
//!
//! Invariant: no more connections are open than allowed, and none stays for ever: one that is idle, or does not
//! take its answers, is closed. After `stop`, running requests are answered within the time to drain; what is
//! still open then is cut.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::timer::ConnectionTimer;
use super::{Routes, caller};
use crate::telemetry;

/// Limits of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections open at once; further ones wait in the system's backlog.
    pub connections_max: usize,
    /// How long a connection may be idle, take over a request's head, or leave an answer untaken.
    pub idle_timeout: Duration,
    /// How long requests may take to finish after `stop`.
    pub drain_timeout: Duration,
}

/// How long to wait after the system refused a connection for want of files or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(250);

/// Serves `routes` on `listener` until `stop` resolves, then drains. Returns how many connections were cut
/// because their requests took longer than the time to drain.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    limits: ServerLimits,
    stop: impl Future<Output = ()>,
) -> usize {
    let room = Arc::new(Semaphore::new(limits.connections_max));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &room, limits) => accepted,
            // Ended connections are forgotten as they end.
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a request panicked; its connection is closed");
                }
                continue;
            }
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, permit)) => {
                let watched = watch(&graceful, stream, routes.clone(), limits);
                connections.spawn(async move {
                    let _open = Open::new(permit);
                    watched.await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(limits.drain_timeout, graceful.shutdown()).await;
    let mut cut = 0;
    if drained.is_err() {
        connections.abort_all();
        while let Some(ended) = connections.join_next().await {
            cut += usize::from(ended.is_err());
        }
    }
    cut
}

/// A connection's place, and its share in the gauge, however it ends.
struct Open {
    _permit: OwnedSemaphorePermit,
}

impl Open {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        metrics::gauge!(telemetry::CONNECTIONS).increment(1.0);
        Self { _permit: permit }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::gauge!(telemetry::CONNECTIONS).decrement(1.0);
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
    limits: ServerLimits,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Answers are small and whole: waiting to fill a packet only delays them.
    stream.set_nodelay(true)?;
    // Linux closes a connection whose peer takes no bytes for so long (TCP_USER_TIMEOUT, tcp(7)).
    let untaken_ms = u32::try_from(limits.idle_timeout.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(&stream, untaken_ms)?;
    Ok((stream, permit))
}

fn watch(
    graceful: &GracefulShutdown,
    stream: TcpStream,
    routes: Routes,
    limits: ServerLimits,
) -> impl Future<Output = ()> + use<> {
    let (caller, bytes) = caller::split(stream);
    let answer = move |request| {
        let (routes, caller) = (routes.clone(), caller.clone());
        async move { Ok::<_, Infallible>(routes.answer(request, &caller).await) }
    };
    let connection = http1::Builder::new()
        .timer(ConnectionTimer::default())
        .header_read_timeout(limits.idle_timeout)
        // A client may end its side after its request and still wait for the answer; `caller` tells one that has gone.
        .half_close(true)
        .serve_connection(TokioIo::new(bytes), service_fn(answer));
    let watched = graceful.watch(connection);
    async move {
        if let Err(error) = watched.await {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}
