//! `GET` and `POST /internal/v1/loss`: an operator's signature that something is lost for good.
//!
//! Invariant: nothing is accepted that the request does not name.

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

/// Where losses are looked up and accepted.
pub trait LossDesk: Send + Sync + 'static {
    /// What would be accepted now.
    ///
    /// # Errors
    /// [`LossError::Refused`] when it can't be told now.
    fn plan(&self) -> BoxFuture<'_, Result<LossPlan, LossError>>;

    /// Accepts what `request` names; returns once every counter will hear of it, and tells how
    /// those stand that have.
    ///
    /// # Errors
    /// [`LossError`]: of the request nothing is accepted, or that is not known.
    fn accept(&self, request: LossRequest) -> BoxFuture<'_, Result<LossReceipt, LossError>>;
}

/// Why nothing was accepted, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LossError {
    /// What is named is not lost, or not known to be, or can't be signed now.
    #[error("{0}")]
    Refused(String),
    /// It is not known whether the signature became durable. Giving it again is safe.
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

/// The desk, and who may come to it.
pub(crate) struct Desk {
    pub desk: Arc<dyn LossDesk>,
    pub guard: Guard,
}

/// The routes to the desk, if there is one.
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
        "an operator accepted a loss"
    );
    Ok(message(&receipt))
}

#[cfg(test)]
#[path = "loss_tests.rs"]
mod tests;
