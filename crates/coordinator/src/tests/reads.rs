//! Tests of reads over several counters that lag, are incomplete, restart or do not answer.
//!
//! Invariant: the tests use the public handle. Only the counters and the log are scripted.

use std::time::Duration;

use super::*;
use crate::{Consistency, NeighbourRole, ReadError};

#[tokio::test]
async fn reads_are_exact_only_after_the_start_read() {
    let world = World::new(3);
    assert_eq!(world.count(Consistency::Session).await, Ok((0, false)));
    world.start().await;
    assert_eq!(world.count(Consistency::Session).await, Ok((0, true)));
}

#[tokio::test]
async fn the_start_read_needs_a_majority_and_takes_what_it_has_as_the_floor() {
    let world = World::new(3);
    world.counters[0].apply(&foreign(1));
    world.counters[1].set(Mode::Gone);
    world.counters[2].set(Mode::Gone);
    let started = world.coordinator.start(Duration::from_millis(50)).await;
    assert_eq!(started, Err(ReadError::NoMajority));
    world.counters[1].set(Mode::Answers);
    world.start().await;
    // Only the first counter has what was acknowledged in an earlier incarnation, so an answer of
    // the second is not exact.
    world.counters[0].set(Mode::Gone);
    assert_eq!(world.count(Consistency::Session).await, Ok((0, false)));
    world.counters[1].apply(&foreign(1));
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
}

#[tokio::test]
async fn a_read_includes_every_own_write_or_says_that_it_does_not() {
    let world = World::new(3);
    world.start().await;
    world.reach(&[2]);
    world.post(1).await;
    assert_eq!(
        world.count(Consistency::Session).await,
        Ok((1, true)),
        "the counter that has it wins"
    );
    world.counters[2].set(Mode::Silent);
    assert_eq!(world.count(Consistency::Session).await, Ok((0, false)));
    world.counters[2].set(Mode::Gone);
    assert_eq!(world.count(Consistency::Eventual).await, Ok((0, false)));
}

/// A halted counter answers at once, with what it had when it halted: enough for a read without a
/// requirement.
#[tokio::test]
async fn a_counter_that_takes_nothing_more_is_asked_last() {
    let world = World::new(3);
    world.start().await;
    world.post(1).await;
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
    assert_eq!(world.asked(), [1, 0, 0]);
    world.counters[0].0.lock().problem = Some("a batch can't be read".into());
    world.reach(&[1, 2]);
    world.post(2).await;
    world.coordinator.look_around(Duration::from_secs(5)).await;
    assert_eq!(world.count(Consistency::Eventual).await, Ok((2, false)));
    assert_eq!(world.asked(), [0, 1, 0]);
    world.counters[1].set(Mode::Gone);
    world.counters[2].set(Mode::Gone);
    assert_eq!(world.count(Consistency::Eventual).await, Ok((1, false)));
}

#[tokio::test]
async fn one_counter_is_asked_until_it_is_slow_or_gone() {
    let world = World::new(3);
    world.start().await;
    world.post(1).await;
    for _ in 0..3 {
        assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
    }
    assert_eq!(world.asked(), [3, 0, 0]);
    world.counters[0].set(Mode::Silent);
    world.counters[1].set(Mode::Gone);
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
    assert_eq!(world.asked(), [1, 1, 1], "the others are asked as well");
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
    assert_eq!(
        world.asked(),
        [0, 0, 1],
        "the counter that answered is asked first"
    );
    world.counters[2].set(Mode::Gone);
    world.counters[0].set(Mode::Answers);
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
}

#[tokio::test]
async fn an_incomplete_counter_never_makes_an_answer_exact() {
    let world = World::new(3);
    world.start().await;
    world.post(1).await;
    for counter in &world.counters {
        counter.0.lock().complete = false;
    }
    assert_eq!(world.count(Consistency::Session).await, Ok((1, false)));
    world.counters[1].0.lock().complete = true;
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
}

#[tokio::test]
async fn exact_reads_never_go_backwards() {
    let world = World::new(3);
    world.start().await;
    world.counters[1].set(Mode::Gone);
    world.counters[2].set(Mode::Gone);
    // A batch of another coordinator has reached only the first counter, and is shown.
    world.counters[0].apply(&foreign(1));
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
    world.counters[0].set(Mode::Gone);
    world.counters[1].set(Mode::Answers);
    assert_eq!(
        world.count(Consistency::Session).await,
        Ok((0, false)),
        "it has less and says so"
    );
    world.counters[1].apply(&foreign(1));
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
}

#[tokio::test]
async fn strong_reads_include_what_others_acknowledged_and_need_a_majority() {
    let world = World::new(3);
    world.start().await;
    world.counters[0].apply(&foreign(1));
    world.counters[1].apply(&foreign(1));
    for _ in 0..20 {
        // The third counter lags. Whichever two answer first, one of them has the batch.
        assert_eq!(world.count(Consistency::Strong).await, Ok((1, true)));
    }
    world.reach(&[0]);
    assert_eq!(
        world.count(Consistency::Strong).await,
        Err(ReadError::NoMajority)
    );
}

/// A counter that may have lost a batch cannot vouch for it.
#[tokio::test]
async fn counters_that_are_not_complete_are_no_part_of_a_majority() {
    let world = World::new(3);
    // A batch was acknowledged in an earlier incarnation. Two counters had it and lost their disks;
    // it is still in the queue of the third.
    world.counters[0].lose_disk();
    world.counters[1].lose_disk();
    world.counters[2].set(Mode::Gone);
    let started = world.coordinator.start(Duration::from_millis(50)).await;
    assert_eq!(started, Err(ReadError::NoMajority));
    world.counters[2].set(Mode::Answers);
    world.reach(&[0, 1]);
    assert_eq!(world.count(Consistency::Session).await, Ok((0, false)));
    assert_eq!(
        world.count(Consistency::Strong).await,
        Err(ReadError::NoMajority)
    );
    world.counters[2].apply(&foreign(1));
    world.counters[0].apply(&foreign(1));
    world.counters[0].0.lock().complete = true;
    world.reach(&[0, 1, 2]);
    world.start().await;
    assert_eq!(world.count(Consistency::Strong).await, Ok((1, true)));
}

#[tokio::test]
async fn without_any_counter_there_is_no_answer() {
    let world = World::new(3);
    world.start().await;
    for counter in &world.counters {
        counter.set(Mode::Gone);
    }
    assert_eq!(
        world.count(Consistency::Session).await,
        Err(ReadError::NoCounter)
    );
    world.counters[0].set(Mode::Silent);
    assert_eq!(
        world.count(Consistency::Eventual).await,
        Err(ReadError::NoCounter)
    );
}

#[tokio::test]
async fn what_would_have_to_wait_is_refused_once_too_much_waits_everywhere() {
    let world = World::new(3);
    world.start().await;
    world.reach(&[]);
    world.post(1).await;
    for counter in &world.counters {
        counter.set(Mode::Busy);
    }
    let session = || world.count(Consistency::Session);
    assert_eq!(session().await, Err(ReadError::TooManyWaiting));
    assert_eq!(world.count(Consistency::Eventual).await, Ok((0, false)));
    // The third counter has nothing, and room for a query to wait.
    world.counters[2].set(Mode::Answers);
    assert_eq!(session().await, Ok((0, false)));
    world.counters[2].set(Mode::Gone);
    assert_eq!(session().await, Err(ReadError::TooManyWaiting));
    world.counters[1].apply(&own(1));
    assert_eq!(
        session().await,
        Ok((1, true)),
        "the query does not have to wait"
    );
}

#[tokio::test]
async fn a_counter_of_another_life_has_to_cover_the_floor_anew() {
    let world = World::new(3);
    for counter in &world.counters[..2] {
        counter.apply(&foreign(1));
    }
    world.start().await;
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
    world.counters[0].set(Mode::Gone);
    world.counters[2].set(Mode::Gone);
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
    // The counter at the same address comes back without its disk, declared complete by mistake.
    world.counters[1].lose_disk();
    world.counters[1].0.lock().complete = true;
    assert_eq!(world.count(Consistency::Session).await, Ok((0, false)));
    world.counters[1].apply(&foreign(1));
    assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
}

#[tokio::test]
async fn what_a_restarted_counter_shows_is_not_taken_back_by_another() {
    let world = World::new(3);
    world.start().await;
    world.counters[1].set(Mode::Gone);
    world.counters[2].set(Mode::Gone);
    // Applied before the restart, so answers name it only if the whole position is requested.
    world.counters[0].apply(&foreign(1));
    world.counters[0].restart();
    for _ in 0..2 {
        assert_eq!(world.count(Consistency::Session).await, Ok((1, true)));
    }
    world.counters[0].set(Mode::Gone);
    world.counters[1].set(Mode::Answers);
    assert_eq!(world.count(Consistency::Session).await, Ok((0, false)));
}

#[tokio::test]
async fn the_majority_is_one_of_all_named_counters_seen_or_not() {
    let world = World::named(&["c0", "c1", "c2"], 1);
    let started = world.coordinator.start(Duration::from_millis(50)).await;
    assert_eq!(started, Err(ReadError::NoMajority));
    let second = world.add("c1");
    world.start().await;
    // Discovery finds a fourth and a fifth counter: two of five are no majority.
    for name in ["c3", "c4"] {
        world.add(name).set(Mode::Silent);
    }
    let strong = || world.count(Consistency::Strong);
    assert_eq!(strong().await, Err(ReadError::NoMajority));
    world.coordinator.remove_member("c3");
    world.coordinator.remove_member("c4");
    assert_eq!(strong().await, Ok((0, true)));
    // A configured name stays configured although its counter is no longer queried.
    world.coordinator.remove_member("c1");
    assert_eq!(strong().await, Err(ReadError::NoMajority));
    let again = Arc::new(second);
    world.coordinator.set_member("c1", again, false);
    assert_eq!(strong().await, Ok((0, true)));
}

#[tokio::test]
async fn named_counters_that_were_never_seen_are_listed() {
    let world = World::named(&["c0", "c9"], 1);
    world.add("c3");
    let views = world.coordinator.counters().await;
    let names: Vec<_> = views.iter().map(|view| view.name.as_str()).collect();
    assert_eq!(names, ["c0", "c3", "c9"]);
    let unseen = views[2].status.as_ref().expect_err("unreachable");
    assert!(unseen.to_string().contains("not been seen"), "{unseen}");
}

#[tokio::test]
async fn strong_reads_are_refused_at_once_while_the_log_is_blocked_and_beyond_their_number() {
    let world = World::new(3);
    world.start().await;
    world.coordinator.set_log_state(LogState {
        writable: false,
        ..LogState::default()
    });
    let strong = || world.count(Consistency::Strong);
    assert_eq!(strong().await, Err(ReadError::NoMajority));
    assert_eq!(world.count(Consistency::Session).await, Ok((0, true)));
    world.coordinator.set_log_state(LogState::default());
    assert_eq!(strong().await, Ok((0, true)));
    for counter in &world.counters {
        counter.set(Mode::Silent);
    }
    let all = futures_util::future::join_all((0..=STRONG_READS_MAX).map(|_| strong())).await;
    let refused = all
        .iter()
        .filter(|read| **read == Err(ReadError::TooManyStrong));
    assert_eq!(refused.count(), 1);
}

/// A machine that is rolled back restarts in its state of that moment, while counters have applied
/// the barriers that it appended since. A read that used the id of such a barrier again would not
/// wait for anything.
#[tokio::test]
async fn a_coordinator_brought_back_to_an_earlier_moment_repeats_no_barrier() {
    let world = World::new(3);
    world.start().await;
    for _ in 0..5 {
        assert_eq!(world.count(Consistency::Strong).await, Ok((0, true)));
    }
    let later = || Entropy {
        now_ns: 1,
        ..Entropy::default()
    };
    let names = ["c0", "c1", "c2"];
    let brought_back = World {
        began: world.began,
        counters: world.counters.clone(),
        log: world.log.clone(),
        coordinator: World::coordinate(&names, &world.counters, &world.log, later),
    };
    // An item of another coordinator is acknowledged and waits in every queue, and so does
    // everything behind it.
    brought_back.reach(&[]);
    let strong = brought_back.count(Consistency::Strong).await;
    assert_eq!(strong, Err(ReadError::NoMajority));
    let started = brought_back.coordinator.start(Duration::from_millis(50));
    assert_eq!(started.await, Err(ReadError::NoMajority));
    brought_back.reach(&[0, 1, 2]);
    brought_back.start().await;
    assert_eq!(brought_back.count(Consistency::Strong).await, Ok((0, true)));
}

/// Discovered counters may outnumber those that hold a copy of every acknowledged batch.
#[tokio::test]
async fn counters_that_joined_do_not_outvote_those_of_configuration() {
    let world = World::new(1);
    world.start().await;
    let joined = [world.add("c8"), world.add("c9")];
    world.reach(&[0]);
    world.post(1).await;
    world.log.0.lock().counters.extend(joined);
    world.counters[0].set(Mode::Silent);
    let strong = world.count(Consistency::Strong).await;
    assert_eq!(strong, Err(ReadError::NoMajority));
    world.counters[0].set(Mode::Answers);
    assert_eq!(world.count(Consistency::Strong).await, Ok((1, true)));
}

/// The first majority does not have the batch.
#[tokio::test]
async fn a_strong_read_takes_what_is_known_beyond_the_first_majority() {
    let world = World::new(3);
    world.start().await;
    world.counters[2].apply(&foreign(1));
    assert_eq!(world.count(Consistency::Strong).await, Ok((1, true)));
}

/// Another coordinator has copies only with the counters that its configuration names.
#[tokio::test]
async fn a_majority_is_one_of_what_each_other_coordinator_names_too() {
    let world = World::new(3);
    world.start().await;
    let role = NeighbourRole::Appends(Some(Epoch(77)));
    let mut other = world.announced("k1", role, 0);
    other.named = vec!["c2".to_owned()];
    other.heard_at = Instant::now();
    world.coordinator.note_neighbours(vec![other]);
    world.counters[2].set(Mode::Silent);
    let strong = world.count(Consistency::Strong).await;
    assert_eq!(strong, Err(ReadError::NoMajority));
    world.counters[2].set(Mode::Answers);
    assert_eq!(world.count(Consistency::Strong).await, Ok((0, true)));
}
