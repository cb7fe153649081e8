//! Tests of an operator's signature: for whom it is, for which loss, and for which batches.
//!
//! Invariant: as those of `repair`.

use std::time::Duration;

use super::*;
use crate::coordinator::{Aftermath, StillIncomplete};

const TIMEOUT: Duration = Duration::from_millis(100);

impl World {
    /// An operator accepts all that a plan names.
    pub(super) async fn accept_all(&self, plan: &LossPlan) -> Result<Token, AcceptLossError> {
        self.coordinator
            .accept_loss(&plan.losses, &named(plan))
            .await
    }
}

/// The counters that a plan names, each with its loss.
fn named(plan: &LossPlan) -> Vec<(CounterName, LossId)> {
    let named = plan.incomplete.iter();
    let named = named.map(|of| {
        let name = CounterName::new(&of.name).expect("a name");
        (name, of.loss.expect("it says so"))
    });
    named.collect()
}

/// Two counters have lost the disks on which a batch of another coordinator was, and that one is gone.
async fn both_lost() -> World {
    let world = World::new(2);
    for counter in &world.counters {
        counter.apply(&foreign(1));
    }
    world.start().await;
    for counter in &world.counters {
        counter.lose_disk();
    }
    world
}

async fn plan(world: &World) -> LossPlan {
    let plan = world.coordinator.loss_plan(TIMEOUT).await;
    plan.expect("a plan")
}

async fn aftermath(world: &World, plan: &LossPlan) -> Aftermath {
    let aftermath = world.coordinator.aftermath(&named(plan), TIMEOUT).await;
    aftermath.expect("the log takes barriers")
}

fn is_complete(counter: &Scripted) -> bool {
    counter.0.lock().complete
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[tokio::test]
async fn a_counter_that_loses_again_after_the_plan_is_not_complete_by_it() {
    let ways: [fn(&Scripted); 3] = [Scripted::lose, Scripted::lose_disk, Scripted::restart];
    for loses in ways {
        let world = both_lost().await;
        let plan = plan(&world).await;
        loses(&world.counters[0]);
        let accepted = world.accept_all(&plan).await;
        accepted.expect("accepted");
        let complete: Vec<bool> = world.counters.iter().map(is_complete).collect();
        assert_eq!(complete, [false, true]);
        let expected = Aftermath {
            complete: strings(&["c1"]),
            incomplete: vec![("c0".into(), StillIncomplete::LostAgain)],
            silent: Vec::new(),
        };
        assert_eq!(aftermath(&world, &plan).await, expected);
    }
}

#[tokio::test]
async fn only_the_counters_that_are_named_are_complete() {
    let world = both_lost().await;
    let plan = plan(&world).await;
    let accept = |counters: Vec<_>| {
        let (coordinator, losses) = (&world.coordinator, &plan.losses);
        async move { coordinator.accept_loss(losses, &counters).await }
    };
    let [first, second] = <[_; 2]>::try_from(named(&plan)).expect("two");
    let other = (first.0.clone(), LossId(first.1.0 + 1));
    let stranger = (CounterName::new("c9").expect("a name"), first.1);
    for wrong in [other, stranger] {
        let refused = accept(vec![wrong, second.clone()]).await;
        assert_eq!(refused, Err(AcceptLossError::NotInPlan));
    }
    assert!(
        !world.counters.iter().any(is_complete),
        "nothing was appended"
    );
    accept(vec![second.clone(), second])
        .await
        .expect("accepted");
    let complete: Vec<bool> = world.counters.iter().map(is_complete).collect();
    assert_eq!(complete, [false, true]);
    let still = aftermath(&world, &LossPlan::default()).await.incomplete;
    assert_eq!(still, [("c0".into(), StillIncomplete::NotNamed)]);
}

#[tokio::test]
async fn who_can_t_be_reached_by_a_signature_is_told() {
    let world = both_lost().await;
    let plan = plan(&world).await;
    world.reach(&[]);
    let accepted = world.accept_all(&plan).await;
    accepted.expect("accepted");
    let expected = strings(&["c0", "c1"]);
    assert_eq!(aftermath(&world, &plan).await.silent, expected);
    world.reach(&[0, 1]);
    let still = aftermath(&world, &plan).await.incomplete;
    let not_reached = |name: &String| (name.clone(), StillIncomplete::NotReached);
    assert_eq!(still, expected.iter().map(not_reached).collect::<Vec<_>>());
}
