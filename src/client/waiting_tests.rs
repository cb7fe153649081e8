//! Queries that wait at a counter elsewhere, and those that need not.
//!
//! Invariant: see the [module above](super).

use super::tests::{LONG, SECRET, batch, demand, node, remote, secret, tenant};
use super::*;
use crate::client::places::WAITING_MAX;
use crate::client::told::told;
use crate::log::Log;

#[tokio::test]
async fn what_waits_in_its_group_holds_up_no_query_that_need_not() {
    let mut told = told().await;
    let remote = remote("c1", &told.url, None);
    let mut waits = remote.counts(Arc::new([tenant("a")]), demand(1, LONG));
    assert!((&mut waits).now_or_never().is_none());
    assert_eq!(told.seen.recv().await, Some(1));
    // Its group is not answered yet; the next one goes all the same, and so does one after that.
    for _ in 0..2 {
        let mut eventual = remote.counts(Arc::new([tenant("a")]), Demand::default());
        let seen = tokio::select! {
            _ = &mut eventual => panic!("answered before it was let"),
            seen = timeout(LONG, told.seen.recv()) => seen.expect("in time"),
        };
        assert_eq!(seen, Some(1));
        // The first is let go as well, and then waits alone.
        told.let_go.add_permits(2);
        let answered = tokio::time::timeout(LONG, eventual).await;
        assert!(answered.expect("in time").is_ok());
    }
    told.let_waiting_go.add_permits(1);
    let waited = tokio::time::timeout(LONG, waits).await.expect("in time");
    assert!(waited.expect("answered").cover.is_full());
}

/// A query of each kind.
async fn ask_all(remote: &RemoteCounter, demand: &Demand) -> [Result<Cover, QueryError>; 3] {
    let list = ListQuery {
        prefix: String::new(),
        after: None,
        limit: 1,
    };
    let hash = ItemHash::of_id("1");
    let (counts, contains, list) = tokio::join!(
        remote.counts(Arc::new([tenant("a")]), demand.clone()),
        remote.contains(tenant("a"), hash, demand.clone()),
        remote.list(Arc::new(list), demand.clone()),
    );
    [
        counts.map(|counts| counts.cover),
        contains.map(|membership| membership.cover),
        list.map(|listing| listing.cover),
    ]
}

#[tokio::test]
async fn queries_that_wait_keep_no_other_from_its_answer() {
    let (log, _, url) = node().await;
    let remote = Arc::new(remote("c1", &url, secret(SECRET)));
    log.append(batch(1, &["a"])).await.expect("appended");
    // As with tokens of a batch that nobody has: of every kind, until no more may wait.
    let waiting: Vec<_> = (0..WAITING_MAX.div_ceil(3))
        .map(|_| {
            let remote = Arc::clone(&remote);
            tokio::spawn(async move { ask_all(&remote, &demand(3, LONG)).await })
        })
        .collect();
    let deadline = Instant::now() + LONG;
    while remote.places.waiting.available_permits() > 0 {
        assert!(Instant::now() < deadline, "they wait");
        sleep(Duration::from_millis(1)).await;
    }
    let soon = LONG / 3;
    let ask = |demand: Demand| {
        let remote = Arc::clone(&remote);
        async move {
            timeout(soon, ask_all(&remote, &demand))
                .await
                .expect("soon")
        }
    };
    let whole = Demand {
        whole_position: true,
        ..demand(1, LONG)
    };
    for demand in [Demand::default(), demand(1, LONG), whole] {
        for answer in ask(demand).await {
            assert!(answer.expect("answers").is_full());
        }
    }
    // Its own time is the most that one without a place waits, and it has what was known.
    for late in ask(demand(3, Duration::from_millis(50))).await {
        assert!(!late.expect("answers").is_full());
    }
    // What comes a little later is no reason to stand behind the others.
    let own = tokio::spawn(ask(demand(2, LONG)));
    log.append(batch(2, &["a"])).await.expect("appended");
    for answer in own.await.expect("joined") {
        assert!(answer.expect("answers").is_full());
    }
    let here = &remote.places.waiting_here;
    let all = u32::try_from(here.available_permits()).expect("few");
    let all = here.try_acquire_many(all).expect("free");
    for refused in ask(demand(3, LONG)).await {
        assert_eq!(refused, Err(QueryError::Busy));
    }
    drop(all);
    log.append(batch(3, &["a"])).await.expect("appended");
    for waited in waiting {
        for answer in timeout(soon, waited).await.expect("soon").expect("joined") {
            assert!(answer.expect("answers").is_full());
        }
    }
}
