//! Accepting connections: how many, how slow, and how they end.
//!
//! Invariant: no more connections are open than allowed, and after `stop` every request that was being
//! answered is answered, or cut off when the time to drain is up.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::telemetry;

/// Limits of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections open at once; further ones wait in the system's backlog.
    pub connections_max: usize,
    /// How long a connection may be idle, or take over a request's head.
    pub idle_timeout: Duration,
    /// How long requests may take to finish after `stop`.
    pub drain_timeout: Duration,
}

/// How long to wait after the system refused a connection for want of files or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Serves `router` on `listener` until `stop` resolves, then drains. Returns whether every request was
/// answered in time.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ServerLimits,
    stop: impl Future<Output = ()>,
) -> bool {
    let room = Arc::new(Semaphore::new(limits.connections_max));
    let connections = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &room) => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, permit)) => {
                let watched = watch(&connections, stream, router.clone(), limits);
                tokio::spawn(async move {
                    metrics::gauge!(telemetry::CONNECTIONS).increment(1.0);
                    watched.await;
                    metrics::gauge!(telemetry::CONNECTIONS).decrement(1.0);
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    tokio::time::timeout(limits.drain_timeout, connections.shutdown())
        .await
        .is_ok()
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Answers are small and whole: waiting to fill a packet only delays them.
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

fn watch(
    connections: &GracefulShutdown,
    stream: TcpStream,
    router: Router,
    limits: ServerLimits,
) -> impl Future<Output = ()> + use<> {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let watched = connections.watch(connection);
    async move {
        if let Err(error) = watched.await {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}
