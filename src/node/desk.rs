//! Serves the operators' requests to list and accept losses.
//!
//! Invariant: it only translates between the operators' messages and the coordinator's types.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::coordinator::{AcceptLossError, Aftermath, Coordinator, Loss};
use crate::counter::exchange::{
    self, IncompleteCounter, LossPlan, LossReceipt, LossRequest, NotLost,
};
use crate::http::{LossDesk, LossError};
use crate::model::{CounterName, LossId, Partition};

/// Timeout of making a plan.
const PLAN_TIMEOUT: Duration = Duration::from_secs(20);

/// Timeout for the counters to report their state after a loss acceptance, which is durable by
/// then.
const AFTERMATH_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves loss requests by a coordinator.
pub(super) struct Desk(Coordinator);

impl Desk {
    pub(super) fn new(coordinator: Coordinator) -> Self {
        Self(coordinator)
    }

    async fn accept(&self, request: LossRequest) -> Result<LossReceipt, LossError> {
        if request.complete == request.counters.is_empty() {
            return Err(LossError::Refused(
                "The request makes counters complete but does not name their losses, as in \
                 earlier releases. Use the accept-loss command of the coordinator's release."
                    .into(),
            ));
        }
        let missing = request.missing.iter().map(|loss| Loss {
            partition: Partition(loss.partition),
            epoch: loss.epoch,
            first: loss.first,
            last: loss.last,
        });
        let missing: Vec<Loss> = missing.collect();
        let counters: Vec<(CounterName, LossId)> = request.counters.clone().into_iter().collect();
        let accepted = self.0.accept_loss(&missing, &counters).await;
        accepted.map_err(|error| match error {
            AcceptLossError::Append(error) => LossError::Unknown(error.to_string()),
            refused => LossError::Refused(refused.to_string()),
        })?;
        let aftermath = self.0.aftermath(&counters, AFTERMATH_TIMEOUT).await;
        let aftermath = aftermath.unwrap_or_else(|_| Aftermath {
            silent: counters.iter().map(|(name, _)| name.to_string()).collect(),
            ..Aftermath::default()
        });
        let still = aftermath.incomplete.into_iter();
        Ok(LossReceipt {
            accepted: request,
            now_complete: aftermath.complete,
            still_incomplete: still.map(|(name, why)| (name, why.to_string())).collect(),
            not_heard: aftermath.silent,
        })
    }
}

impl LossDesk for Desk {
    fn plan(&self) -> BoxFuture<'_, Result<LossPlan, LossError>> {
        async move {
            let plan = self.0.loss_plan(PLAN_TIMEOUT).await;
            let plan = plan.map_err(|error| LossError::Refused(error.to_string()))?;
            let missing = plan.losses.iter().map(|loss| exchange::Loss {
                partition: loss.partition.0,
                epoch: loss.epoch,
                first: loss.first,
                last: loss.last,
            });
            let incomplete = plan.incomplete.into_iter().map(|of| IncompleteCounter {
                name: of.name,
                loss: of.loss.filter(|_| of.not_yet.is_none()),
                not_yet: of.not_yet,
            });
            let not_lost = plan.not_lost.into_iter().map(|of| NotLost {
                partition: of.id.partition.0,
                epoch: of.id.epoch,
                sequence: of.id.sequence,
                why: of.why,
            });
            Ok(LossPlan {
                missing: missing.collect(),
                incomplete: incomplete.collect(),
                silent: plan.silent,
                not_lost: not_lost.collect(),
            })
        }
        .boxed()
    }

    fn accept(&self, request: LossRequest) -> BoxFuture<'_, Result<LossReceipt, LossError>> {
        self.accept(request).boxed()
    }
}
