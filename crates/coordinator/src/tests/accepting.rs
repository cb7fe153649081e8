//! Tests of an operator's loss acceptance: for which counters, losses and batches it holds.
//!
//! Invariant: see [`repair`](super::repair).

use std::time::Duration;

use super::*;
use crate::{Aftermath, Loss, StillIncomplete};

const TIMEOUT: Duration = Duration::from_millis(100);

impl World {
    /// Receives one own announcement per second, from second `first` to `last`, with `others` known
    /// as well.
    pub(super) fn hear(&self, first: u64, last: u64, others: &[Neighbour]) {
        for second in first..=last {
            let own = self.announced("own", NeighbourRole::Appends(Some(OWN)), second);
            let nodes = [&[own], others].concat();
            self.coordinator.note_neighbours(nodes);
        }
    }

    pub(super) fn announced(&self, name: &str, role: NeighbourRole, second: u64) -> Neighbour {
        Neighbour {
            name: name.into(),
            release: "0.1.0".into(),
            url: format!("http://{name}"),
            heard_at: self.began + Duration::from_secs(second),
            role,
            named: Vec::new(),
            reaches: None,
        }
    }

    /// Makes every other coordinator count as gone.
    pub(super) fn hear_nobody_else(&self) {
        self.hear(0, SILENCE_MAX.as_secs(), &[]);
    }

    /// Accepts everything that `plan` lists, as an operator does.
    pub(super) async fn accept_all(&self, plan: &LossPlan) -> Result<Token, AcceptLossError> {
        self.coordinator
            .accept_loss(&plan.losses, &named(plan))
            .await
    }
}

/// The counters that `plan` allows to be declared complete, each with its loss.
fn named(plan: &LossPlan) -> Vec<(CounterName, LossId)> {
    let named = plan.incomplete.iter().filter(|of| of.not_yet.is_none());
    let named = named.map(|of| {
        let name = CounterName::new(&of.name).expect("a name");
        (name, of.loss.expect("it says so"))
    });
    named.collect()
}

/// Two counters lost their disks, which held a batch of another coordinator, and that coordinator
/// is gone.
async fn both_lost() -> World {
    let world = World::new(2);
    for counter in &world.counters {
        counter.apply(&foreign(1));
    }
    world.start().await;
    for counter in &world.counters {
        counter.lose_disk();
    }
    world.hear_nobody_else();
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

fn lost(epoch: Epoch, first: Sequence, last: Sequence) -> Loss {
    Loss {
        partition: Partition(0),
        epoch,
        first,
        last,
    }
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

#[tokio::test]
async fn nothing_is_signed_that_a_counter_which_is_heard_can_t_read() {
    let world = both_lost().await;
    let plan = plan(&world).await;
    let old = world.announced("c1", NeighbourRole::Reads(1), 60);
    let new = world.announced("c0", NeighbourRole::Reads(2), 60);
    world.hear(61, 61, &[new.clone(), old]);
    let refused = world.accept_all(&plan).await;
    let name = "c1".into();
    let release = "0.1.0".into();
    assert_eq!(refused, Err(AcceptLossError::CannotRead { name, release }));
    assert!(
        !world.counters.iter().any(is_complete),
        "nothing was appended"
    );
    // A record that names no counter has the earlier format.
    let losses = world.coordinator.accept_loss(&plan.losses, &[]).await;
    losses.expect("accepted");
    world.hear(62, 62, &[new]);
    let accepted = world.accept_all(&plan).await;
    accepted.expect("accepted");
    assert!(world.counters.iter().all(is_complete));
}

/// A batch reached one counter, was shown, and was lost with the disk of that counter, while its
/// coordinator is about to publish it again.
#[tokio::test]
async fn a_batch_whose_coordinator_is_there_is_not_lost_yet() {
    let world = World::new(2);
    for counter in &world.counters {
        counter.apply(&foreign(1));
        counter.apply(&foreign(3));
    }
    world.start().await;
    for counter in &world.counters {
        counter.lose_disk();
        counter.0.lock().complete = true;
    }
    let there = world.announced("k1", NeighbourRole::Appends(Some(Epoch(1))), 60);
    world.hear(0, 60, std::slice::from_ref(&there));
    assert_eq!(world.coordinator.drop_unheld(TIMEOUT).await, Ok(0));
    let first = plan(&world).await;
    assert_eq!(first.losses, [lost(Epoch(1), 1, 2)], "the last is not");
    assert_eq!(first.not_lost.len(), 1);
    assert_eq!(first.not_lost[0].id, foreign(3).id());
    assert!(first.not_lost[0].why.contains("http://k1"), "{first:?}");
    let all = lost(Epoch(1), 1, 3);
    let refused = world.coordinator.accept_loss(&[all], &[]).await;
    assert_eq!(refused, Err(AcceptLossError::NotInPlan));

    // The coordinator is gone, and comes back before the operator accepts the loss.
    world.hear(61, 120, std::slice::from_ref(&there));
    let plan = plan(&world).await;
    assert_eq!(
        (plan.losses.as_slice(), plan.not_lost.len()),
        (&[all][..], 0)
    );
    let back = world.announced("k1", NeighbourRole::Appends(Some(Epoch(1))), 121);
    world.hear(121, 121, std::slice::from_ref(&back));
    let refused = world.accept_all(&plan).await;
    let Err(AcceptLossError::MayCome { sequence, why, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(sequence == 3 && why.contains("http://k1"), "{why}");
    let before = world
        .coordinator
        .accept_loss(&[lost(Epoch(1), 1, 2)], &[])
        .await;
    before.expect("that was acknowledged, and is lost");
    world.hear(122, 181, std::slice::from_ref(&back));
    world.accept_all(&plan).await.expect("accepted");
    assert_eq!(world.count(Consistency::Session).await, Ok((0, true)));
}

#[tokio::test]
async fn what_was_shown_is_waited_for_while_its_coordinator_may_bring_it() {
    let world = World::new(1);
    world.counters[0].apply(&foreign(1));
    world.start().await;
    world.counters[0].lose_disk();
    world.counters[0].0.lock().complete = true;
    let there = world.announced("k1", NeighbourRole::Appends(Some(Epoch(1))), 60);
    world.hear(0, 119, std::slice::from_ref(&there));
    assert_eq!(world.coordinator.drop_unheld(TIMEOUT).await, Ok(0));
    world.hear(120, 120, &[there]);
    assert_eq!(world.coordinator.drop_unheld(TIMEOUT).await, Ok(1));
}

/// The last own batch reached a counter and was shown before it was confirmed; then the counter
/// lost its disk.
#[tokio::test]
async fn an_own_batch_that_is_in_flight_is_not_lost_yet() {
    let world = World::new(1);
    world.start().await;
    world.post(1).await;
    world.log.0.lock().stalls = true;
    let posting = tokio::spawn({
        let coordinator = world.coordinator.clone();
        async move { coordinator.accept(items(2)).await }
    });
    while world.coordinator.inner.batchers[0].handed() < 2 {
        tokio::task::yield_now().await;
    }
    world.counters[0].apply(&own(2));
    assert_eq!(world.count(Consistency::Session).await, Ok((2, true)));
    world.counters[0].lose_disk();
    world.counters[0].0.lock().complete = true;
    let plan = plan(&world).await;
    assert_eq!(plan.losses, [lost(OWN, 1, 1)], "that one is acknowledged");
    assert_eq!(plan.not_lost.len(), 1, "{plan:?}");
    assert_eq!(plan.not_lost[0].id, own(2).id());
    posting.abort();
}
