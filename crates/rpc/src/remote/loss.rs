//! An operator's client of a coordinator's desk for losses.
//!
//! Invariant: what is accepted is exactly what the operator saw.

use std::time::Duration;

use bytes::Bytes;

use super::ClientError;
use super::node::{Address, NodeClient, Sent};
use crate::QueryError;
use crate::messages::{LOSS_PATH, LossPlan, LossReceipt, LossRequest, Message};
use headcount_model::{ClusterSecret, CounterName};
use headcount_runtime::supervisor::Supervisor;

/// How long making a plan, or accepting one, may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A client of one coordinator.
pub struct LossClient {
    address: Address,
}

impl LossClient {
    /// A client of the coordinator at `url`.
    ///
    /// # Errors
    /// When the URL is none, or TLS can't be set up.
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

    /// What would be accepted now.
    ///
    /// # Errors
    /// When the coordinator does not answer, or can't tell.
    pub async fn plan(&self) -> Result<LossPlan, ClientError> {
        self.ask(Sent::Get).await
    }

    /// Accepts what `request` names; tells how the counters stand then.
    ///
    /// # Errors
    /// When it was refused, or its outcome is unknown: the same may be accepted again.
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
