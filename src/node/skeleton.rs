//! The common part of all nodes: the first steps of the start, and the shutdown.
//!
//! Invariant: signals are handled before anything is started, and the listen address is bound
//! before any data is touched. At shutdown a node stops accepting connections and answers the
//! requests in flight before it closes anything that they use.

use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::NodeError;
use super::system::{Endpoints, open_endpoints, start_metrics, stop_signal};
use crate::config::CommonConfig;
use crate::http::{self, Routes};
use crate::socket::SocketPlace;
use crate::supervisor::Supervisor;

/// A node with signal handlers, metrics and a listen address, and nothing else yet.
pub(super) struct Skeleton {
    pub(super) supervisor: Supervisor,
    /// Renders the metrics.
    pub(super) metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Listen address.
    pub(super) place: SocketPlace,
    pub(super) server: Server,
}

/// The listening endpoints, and what stops them.
pub(super) struct Server {
    supervisor: Supervisor,
    endpoints: Endpoints,
    /// Resolves with the name of the signal that stops the node.
    stop: Pin<Box<dyn Future<Output = &'static str> + Send>>,
    shutdown_delay: Duration,
}

impl Skeleton {
    /// Opens what every node needs.
    ///
    /// # Errors
    /// The operating system refuses it.
    pub(super) async fn open(config: &CommonConfig) -> Result<Self, NodeError> {
        let supervisor = Supervisor::default();
        // First, so that a signal during the start is handled.
        let stop = stop_signal(&supervisor)?;
        let metrics = start_metrics(&supervisor)?;
        // Before the data directory is opened, so that an accidental second start leaves nothing
        // behind.
        let endpoints = open_endpoints(config).await?;
        Ok(Self {
            metrics,
            place: endpoints.place.clone(),
            server: Server {
                supervisor: supervisor.clone(),
                endpoints,
                stop: Box::pin(stop),
                shutdown_delay: config.shutdown_delay,
            },
            supervisor,
        })
    }
}

impl Server {
    /// Serves until a signal arrives, a task ends unexpectedly, or `failed` resolves. In the latter
    /// two cases it calls `close` immediately. Returns once all requests are answered, with what
    /// `failed` resolved to.
    pub(super) async fn run(
        self,
        routes: Routes,
        failed: impl Future<Output = NodeError>,
        close: impl Fn(),
    ) -> Option<NodeError> {
        let supervisor = self.supervisor.clone();
        let mut failure = None;
        let stopped = async {
            tokio::select! {
                () = wait_for_signal(self.stop, &supervisor, self.shutdown_delay) => {}
                _ = supervisor.ended() => close(),
                why = failed => {
                    close();
                    failure = Some(why);
                }
            }
            supervisor.going_down();
        };
        serve(self.endpoints, routes, stopped).await;
        failure
    }
}

/// Waits for the signal to stop, then makes `/readyz` fail and keeps serving for `delay`, because
/// load balancers notice only after some time.
async fn wait_for_signal(
    stop: impl Future<Output = &'static str>,
    supervisor: &Supervisor,
    delay: Duration,
) {
    let signal = stop.await;
    supervisor.leave();
    tracing::info!(
        signal,
        delay_ms = delay.as_millis() as u64,
        "signal received; shutting down"
    );
    tokio::time::sleep(delay).await;
}

/// Serves until `stopped` resolves, and logs how many connections were cut. Probes are answered
/// until all requests are.
async fn serve(endpoints: Endpoints, routes: Routes, stopped: impl Future<Output = ()>) {
    let (answered, all_answered) = oneshot::channel::<()>();
    let probes = async {
        if let Some(endpoint) = endpoints.probes {
            let stop = all_answered.map(drop);
            http::serve(endpoint, routes.clone(), stop).await;
        }
    };
    let all = async {
        let cut = http::serve(endpoints.all, routes.clone(), stopped).await;
        drop(answered);
        cut
    };
    let (cut, ()) = tokio::join!(all, probes);
    if cut > 0 {
        tracing::warn!(
            connections = cut,
            "connections cut after the drain timeout; their last posts may or may not be counted"
        );
    }
}
