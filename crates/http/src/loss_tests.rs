//! Tests of the endpoint with which operators list and accept losses.
//!
//! Invariant: see the [module above](super).

use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::fast_path::tests::call;
use crate::internal::tests::{JSON, LIMITS, SECRET, problem, text};
use crate::{HttpLimits, routes};
use headcount_coordinator::{AdmissionLimits, Coordinator, CoordinatorOptions};
use headcount_log::local;
use headcount_model::{
    BarrierEpochs, ClusterSecret, CounterName, Entropy, Epoch, LossId, Partitioning,
};
use headcount_rpc::messages::{IncompleteCounter, Loss, Message};
use headcount_runtime::supervisor::Supervisor;

/// A desk with one loss, which it accepts; the counter is then complete.
struct OneLoss;

fn loss() -> Loss {
    Loss {
        partition: 0,
        epoch: Epoch(7),
        first: 2,
        last: 3,
    }
}

impl LossDesk for OneLoss {
    fn plan(&self) -> BoxFuture<'_, Result<LossPlan, LossError>> {
        std::future::ready(Ok(LossPlan {
            missing: vec![loss()],
            incomplete: vec![IncompleteCounter {
                name: "c2".into(),
                loss: Some(LossId(5)),
                not_yet: None,
            }],
            ..LossPlan::default()
        }))
        .boxed()
    }

    fn accept(&self, request: LossRequest) -> BoxFuture<'_, Result<LossReceipt, LossError>> {
        let answer = match request.missing.as_slice() {
            [only] if *only == loss() => Ok(LossReceipt {
                accepted: request,
                now_complete: vec!["c2".into()],
                ..LossReceipt::default()
            }),
            _ => Err(LossError::Refused("that is not lost".into())),
        };
        std::future::ready(answer).boxed()
    }
}

#[tokio::test]
async fn losses_are_shown_and_accepted_only_with_the_secret() {
    let (log, _deliveries) = local();
    let options = CoordinatorOptions {
        batch_bytes_max: 1,
        admission: AdmissionLimits {
            waiting_bytes_max: 1,
            waiting_posts_max: 1,
        },
        accept_timeout: Duration::from_secs(1),
        strong_reads_max: 1,
    };
    let coordinator = Coordinator::new(
        Epoch(1),
        BarrierEpochs::new(Epoch(2), Entropy::default),
        Partitioning::SINGLE,
        &log,
        Vec::new(),
        options,
        &Supervisor::default(),
    );
    let limits = HttpLimits {
        items_max: 1,
        bodies: LIMITS,
    };
    let app = || App::new(coordinator.clone(), limits, Box::new(String::new));
    let secret = ClusterSecret::new(SECRET).ok();
    let service = routes(app().with_loss_desk(Arc::new(OneLoss), secret));
    let right = ("authorization", "Bearer 0123456789abcdef");
    let wanted = |first| {
        let loss = Loss { first, ..loss() };
        let name = CounterName::new("c2").expect("a name");
        LossRequest {
            missing: vec![loss],
            complete: true,
            counters: [(name, LossId(5))].into(),
        }
    };
    let body = |first| String::from_utf8(wanted(first).encode()).expect("UTF-8");

    let refused = call(&service, "POST", LOSS_PATH, &[JSON], &body(2)).await;
    assert_eq!(problem(refused).await, (401, "unauthorized".into()));
    let refused = call(&service, "GET", LOSS_PATH, &[], "").await;
    assert_eq!(problem(refused).await, (401, "unauthorized".into()));
    let plan = text(call(&service, "GET", LOSS_PATH, &[right], "").await).await;
    assert_eq!(
        LossPlan::decode(plan.as_bytes()).expect("a plan"),
        OneLoss.plan().await.expect("a plan")
    );
    let accepted = call(&service, "POST", LOSS_PATH, &[JSON, right], &body(2)).await;
    let receipt = LossReceipt::decode(text(accepted).await.as_bytes()).expect("a receipt");
    assert_eq!(receipt.accepted, wanted(2));
    assert_eq!(receipt.now_complete, ["c2"]);
    let refused = call(&service, "POST", LOSS_PATH, &[JSON, right], &body(1)).await;
    assert_eq!(problem(refused).await, (409, "loss-refused".into()));

    let without = routes(app());
    let refused = call(&without, "GET", LOSS_PATH, &[right], "").await;
    assert_eq!(problem(refused).await, (404, "not-found".into()));
}
