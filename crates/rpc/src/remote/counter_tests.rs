//! Tests of a remote counter over real connections to a scripted server.
//!
//! Invariant: see the [module above](super).

use std::sync::atomic::Ordering;

use tokio::net::TcpListener;

use super::*;
use crate::remote::told::told;
use headcount_model::{Epoch, Partition, Requirement};
use headcount_runtime::supervisor::Supervisor;

pub(super) const LONG: Duration = Duration::from_secs(30);

pub(super) fn remote(name: &str, url: &str, secret: Option<ClusterSecret>) -> RemoteCounter {
    let name = CounterName::new(name).expect("allowed");
    let client = NodeClient::new(&Supervisor::default()).expect("a client");
    RemoteCounter::new(name, url, secret, &client).expect("a URL")
}

pub(super) fn tenant(name: &str) -> TenantName {
    TenantName::new(name).expect("valid")
}

pub(super) fn demand(sequence: u64, wait: Duration) -> ReadRequirement {
    let mut requirement = Requirement::default();
    requirement.add(Partition(0), Epoch(1), sequence);
    ReadRequirement {
        requirement,
        wait,
        ..ReadRequirement::default()
    }
}

#[tokio::test]
async fn queries_that_come_together_go_together() {
    const CALLERS: usize = 100;
    let mut told = told().await;
    let remote = remote("c1", &told.url, None);
    let ask = || remote.counts(Arc::new([tenant("a")]), ReadRequirement::default());
    let mut first = ask();
    assert!((&mut first).now_or_never().is_none());
    assert_eq!(told.seen.recv().await, Some(1));
    // While that request is in flight, these queries gather.
    let mut rest = futures_util::future::join_all((0..CALLERS).map(|_| ask()));
    let mut gone = ask();
    assert!((&mut rest).now_or_never().is_none());
    assert!((&mut gone).now_or_never().is_none());
    drop(gone);
    told.let_go.add_permits(2);
    assert!(first.await.is_ok());
    let answers = tokio::time::timeout(LONG, rest).await.expect("answered");
    assert_eq!(
        told.seen.recv().await,
        Some(CALLERS),
        "all except the dropped one"
    );
    assert_eq!(told.requests.load(Ordering::Relaxed), 2);
    for answer in answers {
        assert_eq!(answer.expect("answered").counts, [[1]]);
    }
}

#[tokio::test]
async fn what_is_not_covered_waits_alone_and_holds_up_nobody() {
    let mut told = told().await;
    let remote = remote("c1", &told.url, None);
    let mut waits = remote.counts(Arc::new([tenant("a")]), demand(1, LONG));
    told.let_go.add_permits(1);
    let both = async { (told.seen.recv().await, told.seen.recv().await) };
    tokio::select! {
        _ = &mut waits => panic!("answered too early"),
        seen = both => assert_eq!(seen, (Some(1), Some(1))),
    }
    // The query waits at the counter, in its second request. Another query is answered at once.
    told.let_go.add_permits(1);
    let other = remote.counts(Arc::new([tenant("a")]), ReadRequirement::default());
    let other = tokio::time::timeout(LONG, other).await.expect("in time");
    assert!(other.expect("answered").cover.is_full());
    assert!((&mut waits).now_or_never().is_none());
    told.let_waiting_go.add_permits(1);
    let waited = tokio::time::timeout(LONG, waits).await.expect("in time");
    assert!(waited.expect("answered").cover.is_full());
}

#[tokio::test]
async fn a_counter_that_stalls_or_is_gone_is_unreachable_in_time() {
    let told = told().await;
    let stalled = remote("c1", &told.url, None);
    let wait = Duration::from_millis(300);
    let started = Instant::now();
    let counts = stalled.counts(Arc::new([tenant("a")]), demand(1, wait));
    let hash = ItemHash::of_id("1");
    let contains = stalled.contains(tenant("a"), hash, demand(1, wait));
    let (counts, status, contains) = tokio::join!(counts, stalled.status(), contains);
    let failed = [counts.err(), status.err(), contains.err()];
    for error in failed {
        assert!(
            matches!(error, Some(QueryError::Unreachable(_))),
            "{error:?}"
        );
    }
    let took = started.elapsed();
    assert!(
        took >= ANSWER_GRACE && took < ANSWER_GRACE + wait + LONG,
        "{took:?}"
    );

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let gone = remote("c1", &url, None);
    let answer = tokio::time::timeout(LONG, gone.counts(Arc::new([]), demand(1, LONG)));
    assert!(matches!(
        answer.await.expect("at once"),
        Err(QueryError::Unreachable(_))
    ));
    assert!(gone.snapshot().await.is_err());

    let name = || CounterName::new("c1").expect("allowed");
    let client = NodeClient::new(&Supervisor::default()).expect("a client");
    for bad in ["", "c1:3000", "ftp://c1"] {
        assert!(
            RemoteCounter::new(name(), bad, None, &client).is_err(),
            "{bad}"
        );
    }
}
