//! An operator's client of a coordinator's loss API.
//!
//! Invariant: exactly what the operator saw is accepted.

use std::time::Duration;

use bytes::Bytes;

use super::ClientError;
use super::node::{Address, NodeClient, Sent};
use crate::QueryError;
use crate::messages::{LOSS_PATH, LossPlan, LossReceipt, LossRequest, Message};
use headcount_model::{ClusterSecret, CounterName};
use headcount_runtime::supervisor::Supervisor;

/// Timeout for making a plan, or accepting one.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A client of one coordinator.
pub struct LossClient {
    address: Address,
}

impl LossClient {
    /// A client of the coordinator at `url`.
    ///
    /// # Errors
    /// If the URL is invalid, or TLS can't be set up.
    pub fn new(url: &str, secret: Option<&ClusterSecret>) -> Result<Self, ClientError> {
        let wrong = || ClientError::Url(url.to_owned());
        let anybody = CounterName::new("operator").ok_or_else(wrong)?;
        Ok(Self {
            address: Address::new(
                &anybody,
                url,
                secret,
                &NodeClient::new(&Supervisor::default())?,
            )?,
        })
    }

    /// Returns what would be accepted now.
    ///
    /// # Errors
    /// If the coordinator does not answer, or can't make a plan.
    pub async fn plan(&self) -> Result<LossPlan, ClientError> {
        self.ask(Sent::Get).await
    }

    /// Accepts what `request` names. Returns the state of the counters afterwards.
    ///
    /// # Errors
    /// If the request is rejected, or its outcome is unknown. The same request may be sent again.
    pub async fn accept(&self, request: &LossRequest) -> Result<LossReceipt, ClientError> {
        let body = Bytes::from(request.encode());
        self.ask(Sent::Post(body)).await
    }

    async fn ask<A: Message>(&self, sent: Sent) -> Result<A, ClientError> {
        let answer = self.address.ask(LOSS_PATH, sent, TIMEOUT).await;
        answer.map_err(|failure| match QueryError::from(failure) {
            QueryError::Unreachable(detail) => ClientError::Coordinator(detail),
            other => ClientError::NoAnswer(other.to_string()),
        })
    }
}
