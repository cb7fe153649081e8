//! Tests of reads while counters lack a batch but hold its successor: the missing batch was
//! acknowledged, so no answer is exact without it.
//!
//! Invariant: see [`reads`](super::reads).

use std::time::Duration;

use super::*;
use crate::Consistency;

/// Every queue lost the second batch of another coordinator. It was acknowledged, because that
/// coordinator appended a third one.
fn lose_the_second(world: &World) {
    for counter in &world.counters {
        counter.apply(&foreign(1));
        counter.apply(&foreign(3));
    }
}

#[tokio::test]
async fn a_hole_that_all_counters_share_is_in_the_floor() {
    let world = World::new(3);
    lose_the_second(&world);
    world.start().await;
    for consistency in [Consistency::Session, Consistency::Strong] {
        assert_eq!(world.count(consistency).await, Ok((2, false)));
    }
    world.counters[1].apply(&foreign(2));
    assert_eq!(world.count(Consistency::Session).await, Ok((3, true)));
    assert_eq!(world.count(Consistency::Strong).await, Ok((3, true)));
}

/// The startup read of this coordinator found nothing of that epoch.
#[tokio::test]
async fn a_hole_that_comes_later_is_seen_by_reads_of_each_consistency() {
    let world = World::new(3);
    world.start().await;
    assert_eq!(world.count(Consistency::Session).await, Ok((0, true)));
    lose_the_second(&world);
    for consistency in [Consistency::Session, Consistency::Strong] {
        assert_eq!(world.count(consistency).await, Ok((2, false)));
    }
    world.counters[2].apply(&foreign(2));
    assert_eq!(world.count(Consistency::Session).await, Ok((3, true)));
}

/// The third counter, which has no hole, may be the only one that has the batch.
#[tokio::test]
async fn two_counters_that_share_a_hole_decide_nothing_without_the_third() {
    let world = World::new(3);
    lose_the_second(&world);
    world.counters[2].apply(&foreign(2));
    world.counters[2].set(Mode::Gone);
    world.start().await;
    for consistency in [Consistency::Session, Consistency::Strong] {
        assert_eq!(world.count(consistency).await, Ok((2, false)));
    }
    let dropped = world.coordinator.drop_unheld(Duration::from_millis(50));
    assert_eq!(dropped.await, Ok(0));
    world.counters[2].set(Mode::Answers);
    let dropped = world.coordinator.drop_unheld(Duration::from_millis(50));
    assert_eq!(dropped.await, Ok(0), "it has a successor");
    assert_eq!(world.count(Consistency::Session).await, Ok((3, true)));
}

/// Only an operator's loss acceptance fills a hole that no counter can fill.
#[tokio::test]
async fn a_hole_is_filled_by_an_acceptance() {
    let world = World::new(3);
    lose_the_second(&world);
    world.start().await;
    let plan = world.coordinator.loss_plan(Duration::from_secs(5)).await;
    let plan = plan.expect("all answer");
    assert_eq!(plan.losses.len(), 1);
    let accepted = world.coordinator.accept_loss(&plan.losses, &[]).await;
    accepted.expect("it is in the plan");
    assert_eq!(world.count(Consistency::Strong).await, Ok((2, true)));
}

/// A read waits for a counter that is about to fill its hole, as it waits for the rest of its
/// requirement.
#[tokio::test]
async fn a_read_waits_for_a_hole_to_be_filled() {
    let world = World::new(1);
    world.start().await;
    lose_the_second(&world);
    let options = ReadOptions {
        consistency: Consistency::Session,
        after: None,
        timeout: Duration::from_secs(60),
    };
    let read = world.coordinator.counts(vec![tenant()], &options);
    let filled = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.counters[0].apply(&foreign(2));
    };
    let (read, ()) = tokio::join!(read, filled);
    let read = read.expect("answers");
    assert_eq!((read.value, read.exact), (vec![3], true));
}
