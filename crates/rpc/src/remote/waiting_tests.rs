//! Tests of queries that wait at a remote counter, next to queries that do not.
//!
//! Invariant: see the [module above](super).

use super::tests::{LONG, demand, remote, tenant};
use super::*;
use crate::remote::told::told;

#[tokio::test]
async fn what_waits_in_its_group_holds_up_no_query_that_need_not() {
    let mut told = told().await;
    let remote = remote("c1", &told.url, None);
    let mut waits = remote.counts(Arc::new([tenant("a")]), demand(1, LONG));
    assert!((&mut waits).now_or_never().is_none());
    assert_eq!(told.seen.recv().await, Some(1));
    // The first group is not answered yet. The next two queries are sent nevertheless.
    for _ in 0..2 {
        let mut eventual = remote.counts(Arc::new([tenant("a")]), ReadRequirement::default());
        let seen = tokio::select! {
            _ = &mut eventual => panic!("answered before it was allowed"),
            seen = timeout(LONG, told.seen.recv()) => seen.expect("in time"),
        };
        assert_eq!(seen, Some(1));
        // The first query is answered as well, and then waits in a request of its own.
        told.let_go.add_permits(2);
        let answered = tokio::time::timeout(LONG, eventual).await;
        assert!(answered.expect("in time").is_ok());
    }
    told.let_waiting_go.add_permits(1);
    let waited = tokio::time::timeout(LONG, waits).await.expect("in time");
    assert!(waited.expect("answered").cover.is_full());
}
