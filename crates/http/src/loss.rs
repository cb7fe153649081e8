//! `GET` and `POST /internal/v1/loss`: with these an operator lists losses and accepts them.
//!
//! Invariant: only losses that the request names are accepted.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::get;
use futures_util::future::BoxFuture;
use thiserror::Error;

use super::App;
use super::auth::{self, Guard};
use super::error::Problem;
use super::internal::{message, receive};
use headcount_rpc::messages::{LOSS_PATH, LossPlan, LossReceipt, LossRequest};

/// Lists and accepts losses.
pub trait LossDesk: Send + Sync + 'static {
    /// Returns the losses that can be accepted now.
    ///
    /// # Errors
    /// [`LossError::Refused`] if the losses cannot be determined now.
    fn plan(&self) -> BoxFuture<'_, Result<LossPlan, LossError>>;

    /// Accepts the losses that `request` names. Returns once the acceptance is certain to reach
    /// every counter, with the state of the counters that have received it.
    ///
    /// # Errors
    /// [`LossError`]: nothing of the request is accepted, or the outcome is unknown.
    fn accept(&self, request: LossRequest) -> BoxFuture<'_, Result<LossReceipt, LossError>>;
}

/// Why a request about losses failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LossError {
    /// A named loss is not lost or not known to be lost, or cannot be accepted now.
    #[error("{0}")]
    Refused(String),
    /// It is unknown whether the loss acceptance became durable. A retry is safe.
    #[error("{0}")]
    Unknown(String),
}

impl From<LossError> for Problem {
    fn from(error: LossError) -> Self {
        match error {
            LossError::Refused(detail) => Self::loss_refused(detail),
            LossError::Unknown(detail) => Self::loss_unknown(detail),
        }
    }
}

/// The desk, and the guard of its endpoint.
pub(crate) struct Desk {
    pub desk: Arc<dyn LossDesk>,
    pub guard: Guard,
}

/// The routes of the desk; none without a desk.
pub(crate) fn routes(desk: Option<&Desk>) -> Router<Arc<App>> {
    match desk {
        None => Router::new(),
        Some(Desk { desk, guard }) => Router::new()
            .route(
                LOSS_PATH,
                get({
                    let desk = Arc::clone(desk);
                    async move || {
                        let plan = desk.plan().await?;
                        Ok::<_, Problem>(message(&plan))
                    }
                })
                .post({
                    let desk = Arc::clone(desk);
                    async move |State(app), headers, body| accept(&*desk, app, headers, body).await
                }),
            )
            .route_layer(from_fn_with_state(guard.clone(), auth::check)),
    }
}

async fn accept(
    desk: &dyn LossDesk,
    app: Arc<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let request: LossRequest = receive(&app.bodies, &headers, body).await?;
    let receipt = desk.accept(request).await?;
    tracing::warn!(
        ranges = receipt.accepted.missing.len(),
        counters = ?receipt.accepted.counters,
        now_complete = ?receipt.now_complete,
        "operator accepted a loss"
    );
    Ok(message(&receipt))
}

#[cfg(test)]
#[path = "loss_tests.rs"]
mod tests;
