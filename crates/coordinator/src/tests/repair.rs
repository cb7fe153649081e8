//! Tests of the background tasks and operator actions of a coordinator: late startup, shutdown,
//! requirement checks, loss acceptance.
//!
//! Invariant: the tests use the public handle. Only the counters and the log are scripted.

use std::time::Duration;

use super::*;
use crate::{AcceptError, AcceptLossError, Consistency, Fatal, Loss, MaintainOptions, ReadError};

const TIMEOUT: Duration = Duration::from_millis(100);

/// How long a test waits for what must happen.
const SOON: Duration = Duration::from_secs(30);

async fn fatal(world: &World) -> Fatal {
    let fatal = tokio::time::timeout(SOON, world.coordinator.fatal()).await;
    fatal.expect("a fatal error")
}

#[tokio::test]
async fn the_start_read_is_repeated_until_it_succeeds_while_posts_are_taken() {
    let world = World::new(3);
    world.counters[0].set(Mode::Gone);
    world.counters[1].set(Mode::Gone);
    let starting = tokio::spawn({
        let coordinator = world.coordinator.clone();
        async move {
            let (timeout, pause) = (Duration::from_millis(20), Duration::from_millis(1));
            coordinator.run_start(timeout, pause).await;
        }
    });
    world.post(1).await;
    assert_eq!(world.count(Consistency::Session).await, Ok((1, false)));
    assert!(!starting.is_finished());
    world.counters[1].set(Mode::Answers);
    let started = tokio::time::timeout(SOON, starting).await;
    started.expect("soon").expect("ends");
    assert!(world.coordinator.is_started());
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
}

#[tokio::test]
async fn the_tasks_beside_end_when_the_coordinator_is_closed() {
    let world = World::new(1);
    world.counters[0].set(Mode::Gone);
    let starting = world.coordinator.run_start(TIMEOUT, TIMEOUT);
    let tending = world.coordinator.maintain(MaintainOptions::default());
    world.coordinator.close();
    let both = async { tokio::join!(starting, tending) };
    tokio::time::timeout(SOON, both).await.expect("they end");
    assert!(!world.coordinator.is_started());
}

#[tokio::test]
async fn a_clone_ends_the_coordinator() {
    let world = World::new(2);
    world.start().await;
    world.post(1).await;
    // A clone of the coordinator appended a second batch of the same epoch.
    let clone = BatchId {
        epoch: OWN,
        ..foreign(2).id()
    };
    world.counters[1].apply(&Batch::new(clone, 0, items(2)));
    world.counters[0].set(Mode::Silent);
    let _ = world.count(Consistency::Session).await;
    let fatal = fatal(&world).await;
    assert_eq!(fatal, Fatal::Cloned { seen: 2, handed: 1 });
    assert!(!world.coordinator.is_open());
    let post = world.coordinator.accept(items(3)).await;
    assert_eq!(post, Err(AcceptError::Closed));
}

#[tokio::test]
async fn a_clone_is_noticed_though_nobody_reads() {
    let world = World::new(1);
    let clone = BatchId {
        epoch: OWN,
        ..foreign(1).id()
    };
    world.counters[0].apply(&Batch::new(clone, 0, items(2)));
    let options = MaintainOptions {
        interval: Duration::from_millis(1),
        ..MaintainOptions::default()
    };
    let tending = tokio::time::timeout(SOON, world.coordinator.maintain(options));
    tending.await.expect("the clone ends maintenance");
    let fatal = fatal(&world).await;
    assert_eq!(fatal, Fatal::Cloned { seen: 1, handed: 0 });
}

#[tokio::test]
async fn a_batch_that_the_log_refuses_for_good_ends_the_coordinator() {
    let world = World::new(1);
    world.start().await;
    world.log.0.lock().refuses = true;
    let post = world.coordinator.accept(items(1)).await;
    assert_eq!(post, Err(AcceptError::LogEnded), "unknown");
    let fatal = fatal(&world).await;
    assert_eq!(fatal, Fatal::Refused("too large".into()));
}

#[tokio::test]
async fn posts_are_refused_at_once_while_the_log_is_blocked_or_a_counter_lags() {
    let world = World::new(1);
    let lagging = LogState {
        lagging: Some("c2".into()),
        ..LogState::default()
    };
    let blocked = LogState {
        writable: false,
        ..lagging.clone()
    };
    for (state, error) in [
        (lagging, AcceptError::CountersLag("c2".into())),
        (blocked, AcceptError::LogBlocked),
    ] {
        world.coordinator.set_log_state(state);
        assert_eq!(world.coordinator.accept(items(1)).await, Err(error));
    }
    world.coordinator.set_log_state(LogState::default());
    world.post(1).await;
}

/// A batch reached only one counter, was shown, and was lost with the disk of that counter.
async fn shown_and_lost() -> World {
    let world = World::new(3);
    for counter in &world.counters {
        counter.apply(&foreign(1));
    }
    world.start().await;
    world.counters[1].set(Mode::Gone);
    world.counters[2].set(Mode::Gone);
    world.counters[0].apply(&foreign(2));
    assert_eq!(world.count(Consistency::Session).await, Ok((2, true)));
    world.counters[0].lose_disk();
    world.counters[0].apply(&foreign(1));
    world.counters[1].set(Mode::Answers);
    assert_eq!(world.count(Consistency::Session).await, Ok((1, false)));
    world
}

#[tokio::test]
async fn what_was_shown_never_acknowledged_and_lost_is_no_longer_waited_for() {
    let world = shown_and_lost().await;
    world.hear_nobody_else();
    let drop = || world.coordinator.drop_unheld(TIMEOUT);
    assert!(world.coordinator.uncovered_for().is_some());
    assert_eq!(drop().await, Ok(0), "the third may have it");
    world.counters[2].set(Mode::Answers);
    assert_eq!(drop().await, Ok(0), "the first has not caught up");
    world.counters[0].0.lock().complete = true;
    assert_eq!(drop().await, Ok(1));
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
    assert_eq!(world.coordinator.uncovered_for(), None);
}

#[tokio::test]
async fn tending_doubts_the_requirement_by_itself() {
    let world = shown_and_lost().await;
    world.hear_nobody_else();
    world.counters[2].set(Mode::Answers);
    world.counters[0].0.lock().complete = true;
    let options = MaintainOptions {
        interval: Duration::from_millis(1),
        uncovered_min: Duration::from_millis(1),
        timeout: TIMEOUT,
    };
    let exact = async {
        while world.count(Consistency::Session).await != Ok((1, true)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = world.coordinator.maintain(options) => panic!("maintenance must not end"),
        exact = tokio::time::timeout(SOON, exact) => exact.expect("exact again"),
    }
}

#[tokio::test]
async fn own_items_that_every_counter_lost_are_never_dropped_but_by_an_operator() {
    let world = World::new(2);
    world.start().await;
    world.reach(&[]);
    world.post(1).await;
    world.post(2).await;
    world.reach(&[0, 1]);
    let count = || world.count(Consistency::Session);
    assert_eq!(count().await, Ok((0, false)));
    assert_eq!(world.coordinator.drop_unheld(TIMEOUT).await, Ok(0));
    let lost = Loss {
        partition: Partition(0),
        epoch: OWN,
        first: 1,
        last: 2,
    };
    let refused = world.coordinator.accept_loss(&[lost], &[]).await;
    assert_eq!(refused, Err(AcceptLossError::NotInPlan), "without a plan");
    let plan = world.coordinator.loss_plan(TIMEOUT).await.expect("a plan");
    assert_eq!(plan.losses, [lost]);
    assert!(plan.incomplete.is_empty() && plan.silent.is_empty());
    let more = Loss { last: 3, ..lost };
    let refused = world.coordinator.accept_loss(&[more], &[]).await;
    assert_eq!(refused, Err(AcceptLossError::NotInPlan), "more than lost");
    let token = world.coordinator.accept_loss(&plan.losses, &[]).await;
    let sequences = token.expect("accepted").sequences;
    assert_eq!(sequences.as_slice(), [(Partition(0), 3)]);
    assert_eq!(world.count(Consistency::Strong).await, Ok((0, true)));
    world.post(3).await;
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
    let plan = world.coordinator.loss_plan(TIMEOUT).await.expect("a plan");
    assert!(plan.losses.is_empty(), "{plan:?}");
}

#[tokio::test]
async fn counters_that_lost_their_disks_together_are_whole_only_by_signature() {
    let world = World::new(2);
    world.counters[0].apply(&foreign(1));
    world.counters[1].apply(&foreign(1));
    world.start().await;
    for counter in &world.counters {
        counter.lose_disk();
    }
    let count = || world.count(Consistency::Session);
    assert_eq!(count().await, Ok((0, false)));
    world.hear_nobody_else();
    assert_eq!(world.coordinator.drop_unheld(TIMEOUT).await, Ok(0));
    let plan = world.coordinator.loss_plan(TIMEOUT).await.expect("a plan");
    assert_eq!(plan.incomplete.len(), 2);
    assert_eq!(plan.losses.len(), 1);
    let accepted = world.accept_all(&plan).await;
    accepted.expect("accepted");
    assert_eq!(count().await, Ok((0, true)));
}

/// One counter came back with an old copy of its disk, the other with none.
#[tokio::test]
async fn a_signature_does_not_hide_what_a_counter_still_has() {
    let world = World::new(2);
    world.counters[0].apply(&foreign(1));
    world.counters[0].0.lock().complete = false;
    world.counters[1].lose_disk();
    let plan = world.coordinator.loss_plan(TIMEOUT).await.expect("a plan");
    assert_eq!(plan.incomplete.len(), 2);
    let second = &plan.incomplete[1];
    assert!(
        second
            .not_yet
            .as_ref()
            .is_some_and(|why| why.contains("another counter holds"))
    );
    let both = plan.incomplete.iter().map(|of| {
        let name = CounterName::new(&of.name).expect("a name");
        (name, of.loss.expect("it says so"))
    });
    let both: Vec<_> = both.collect();
    let refused = world.coordinator.accept_loss(&plan.losses, &both).await;
    assert_eq!(refused, Err(AcceptLossError::NotInPlan));
    let accepted = world.accept_all(&plan).await;
    accepted.expect("accepted");
    let complete = world.counters.iter().map(|of| of.0.lock().complete);
    assert_eq!(complete.collect::<Vec<_>>(), [true, false]);
    // The counter has caught up on what the other has, so the next plan allows it.
    world.counters[1].apply(&foreign(1));
    let plan = world.coordinator.loss_plan(TIMEOUT).await.expect("a plan");
    let accepted = world.accept_all(&plan).await;
    accepted.expect("accepted");
    world.start().await;
    world.counters[0].set(Mode::Gone);
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
}

#[tokio::test]
async fn a_plan_needs_the_log_and_an_answer() {
    let world = World::new(2);
    world.counters[0].set(Mode::Gone);
    world.counters[1].set(Mode::Gone);
    let plan = || world.coordinator.loss_plan(TIMEOUT);
    assert_eq!(plan().await, Err(ReadError::NoCounter));
    world.counters[1].set(Mode::Answers);
    assert_eq!(plan().await.expect("a plan").silent, ["c0"]);
    world.coordinator.set_log_state(LogState {
        writable: false,
        ..LogState::default()
    });
    assert_eq!(plan().await, Err(ReadError::NoMajority));
}
