//! Tests of the supervisor: which ends are unexpected, and which one it reports.
//!
//! Invariant: see the [module above](super).

use std::collections::HashSet;
use std::time::Duration;

use super::*;

const LONG: Duration = Duration::from_secs(30);

fn gave_up() -> Ended {
    Ended::GaveUp("the log ended".into())
}

#[test]
fn only_what_nobody_asked_for_is_fatal() {
    for going_down in [false, true] {
        assert_eq!(unasked(Ok(Ended::Done), going_down), None);
        let panicked = unasked(Err("oh".into()), going_down);
        assert_eq!(panicked, Some(How::Panicked("oh".into())));
        let failed = unasked(Ok(Ended::Failed("disk".into())), going_down);
        assert_eq!(failed, Some(How::Failed("disk".into())));
    }
    let how = How::GaveUp("the log ended".into());
    assert_eq!(unasked(Ok(gave_up()), false), Some(how));
    assert_eq!(unasked(Ok(gave_up()), true), None);
}

#[test]
fn the_first_end_stays_unless_it_only_followed_another() {
    let causes = [How::Panicked("oh".into()), How::Failed("disk".into())];
    let follows = How::GaveUp("gone".into());
    let end = |how: &How| UnaskedEnd {
        task: Task::Batcher,
        how: how.clone(),
    };
    assert!(replaces(None, &follows));
    assert!(!replaces(Some(&end(&follows)), &follows));
    for cause in &causes {
        assert!(replaces(None, cause));
        assert!(replaces(Some(&end(&follows)), cause));
        assert!(!replaces(Some(&end(cause)), &follows));
        assert!(
            causes
                .iter()
                .all(|other| !replaces(Some(&end(cause)), other))
        );
    }
}

#[test]
fn each_task_has_a_name_of_its_own() {
    let names: HashSet<&str> = Task::ALL.iter().map(|task| task.name()).collect();
    assert_eq!(names.len(), Task::ALL.len());
}

#[tokio::test]
async fn a_panic_is_told_with_its_message() {
    let supervisor = Supervisor::default();
    let done = supervisor.spawn(Task::Members, async { Ended::Done });
    done.await.expect("joined");
    assert_eq!(supervisor.unasked(), None);
    let panicking = async {
        let zero = std::hint::black_box(0);
        assert_eq!(zero, 1, "no {zero} today");
        Ended::Done
    };
    let _running = supervisor.spawn(Task::AntiEntropy, panicking);
    let end = tokio::time::timeout(LONG, supervisor.ended()).await;
    let text = end.expect("told").to_string();
    assert!(text.starts_with("the task healer panicked: "), "{text}");
    assert!(text.contains("no 0 today"), "{text}");
}

#[tokio::test]
async fn who_is_aborted_was_asked_to_end() {
    let supervisor = Supervisor::default();
    let task = supervisor.spawn(Task::Listener, std::future::pending::<Infallible>());
    task.abort();
    assert!(task.await.expect_err("aborted").is_cancelled());
    assert_eq!(supervisor.unasked(), None);
}

#[tokio::test]
async fn giving_up_is_no_fault_once_the_node_goes_down() {
    let supervisor = Supervisor::default();
    supervisor.going_down();
    let task = supervisor.spawn(Task::Batcher, async { gave_up() });
    task.await.expect("joined");
    assert_eq!(supervisor.unasked(), None);
    let task = supervisor.spawn(Task::Batcher, async { panic_any("oh") as Infallible });
    task.await.expect("joined");
    assert!(supervisor.unasked().is_some());
}

#[test]
fn a_thread_that_panics_leaves_its_message() {
    assert_eq!(catch(Task::StoreFlush, || 7), Ok(7));
    let left = catch(Task::StoreFlush, || -> u8 { panic_any("oh") });
    assert_eq!(left, Err("oh".to_owned()));
    let other = catch(Task::StoreFlush, || -> u8 { panic_any(7_u8) });
    assert_eq!(other, Err("no message".to_owned()));
}
