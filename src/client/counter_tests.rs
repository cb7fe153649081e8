//! Counters asked over real connections: by their own node's face, and by a server that does as it is told.
//!
//! Invariant: see the [module above](super).

use std::sync::atomic::Ordering;

use tokio::net::TcpListener;

use super::*;
use crate::client::told::told;
use crate::counter::snapshot::{Part, SnapshotDecoder};
use crate::counter::{CounterTask, LocalCounter};
use crate::http::{BodyLimits, CounterApp, Endpoint, ServerLimits, counter_routes, serve};
use crate::log::{LocalLog, Log, local};
use crate::model::{Batch, BatchId, Epoch, Partition, Partitioning, Requirement, TenantItems};
use crate::store::memory::{MemoryReader, MemoryStore};
use crate::store::{Store, StoreShape};
use crate::supervisor::Supervisor;

pub(super) const SECRET: &str = "0123456789abcdef";
pub(super) const LONG: Duration = Duration::from_secs(30);

pub(super) fn secret(text: &str) -> Option<ClusterSecret> {
    Some(ClusterSecret::new(text).expect("allowed"))
}

pub(super) fn remote(name: &str, url: &str, secret: Option<ClusterSecret>) -> RemoteCounter {
    let name = CounterName::new(name).expect("allowed");
    let client = NodeClient::new(&Supervisor::default()).expect("a client");
    RemoteCounter::new(name, url, secret, &client).expect("a URL")
}

/// A counter, and where its node listens.
pub(super) async fn node() -> (LocalLog, LocalCounter<MemoryReader>, String) {
    let mut store = MemoryStore::new(StoreShape {
        partitioning: Partitioning::SINGLE,
    });
    store.set_complete(true);
    store.commit().expect("commits");
    let (log, deliveries) = local();
    let (task, counter) = CounterTask::new("c1".into(), 7, store, deliveries);
    tokio::spawn(task.run());
    let bodies = BodyLimits {
        body_bytes_max: 1 << 20,
        bodies_bytes_max: 1 << 20,
        body_timeout: LONG,
    };
    let render = Box::new(String::new);
    let supervisor = Supervisor::default();
    let app = CounterApp::new(
        Arc::new(counter.clone()),
        bodies,
        secret(SECRET),
        render,
        supervisor,
    );
    let limits = ServerLimits {
        connections_max: 1_000,
        idle_timeout: LONG,
        drain_timeout: Duration::ZERO,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(serve(
        Endpoint::new(listener, limits),
        counter_routes(app),
        std::future::pending(),
    ));
    (log, counter, url)
}

pub(super) fn tenant(name: &str) -> TenantName {
    TenantName::new(name).expect("valid")
}

fn id(epoch: u128, sequence: u64) -> BatchId {
    BatchId {
        partition: Partition(0),
        epoch: Epoch(epoch),
        sequence,
    }
}

/// A batch with one item of each tenant.
pub(super) fn batch(sequence: u64, tenants: &[&str]) -> Arc<Batch> {
    let items = tenants.iter().map(|name| TenantItems {
        tenant: tenant(name),
        hashes: [ItemHash::of_id(&sequence.to_string())].into(),
    });
    Arc::new(Batch::new(id(1, sequence), 0, items.collect()))
}

pub(super) fn demand(sequence: u64, wait: Duration) -> Demand {
    let mut requirement = Requirement::default();
    requirement.add(Partition(0), Epoch(1), sequence);
    Demand {
        requirement,
        wait,
        ..Demand::default()
    }
}

#[tokio::test]
async fn every_query_is_answered_as_by_the_counter_itself() {
    let (log, counter, url) = node().await;
    let remote = remote("c1", &url, secret(SECRET));
    log.append(batch(1, &["a", "b/\"é"]))
        .await
        .expect("appended");
    log.append(batch(2, &["a"])).await.expect("appended");
    for (sequence, whole_position) in [(2, false), (2, true), (3, false)] {
        let demand = Demand {
            whole_position,
            ..demand(sequence, Duration::from_millis(20))
        };
        let tenants: Arc<[TenantName]> = Arc::new([tenant("b/\"é"), tenant("a"), tenant("none")]);
        assert_eq!(
            remote.counts(Arc::clone(&tenants), demand.clone()).await,
            counter.counts(tenants, demand.clone()).await
        );
        for id in ["1", "3"] {
            let hash = ItemHash::of_id(id);
            assert_eq!(
                remote.contains(tenant("a"), hash, demand.clone()).await,
                counter.contains(tenant("a"), hash, demand.clone()).await
            );
        }
        let list = Arc::new(ListQuery {
            prefix: String::new(),
            after: None,
            limit: 1,
        });
        assert_eq!(
            remote.list(Arc::clone(&list), demand.clone()).await,
            counter.list(list, demand).await
        );
    }
    assert_eq!(remote.status().await, counter.status().await);
    assert_eq!(remote.name(), "c1");
}

#[tokio::test]
async fn a_query_waits_there_until_it_is_covered() {
    let (log, _, url) = node().await;
    let remote = Arc::new(remote("c1", &url, secret(SECRET)));
    log.append(batch(1, &["a"])).await.expect("appended");
    let ask = |demand: Demand| {
        let remote = Arc::clone(&remote);
        tokio::spawn(async move { remote.counts(Arc::new([tenant("a")]), demand).await })
    };
    let early = ask(demand(2, Duration::from_millis(50)));
    let early = early.await.expect("joined").expect("answered");
    assert_eq!(
        (early.counts, early.cover.partitions),
        (vec![vec![1]], vec![(Partition(0), false)])
    );

    let covered = ask(demand(2, LONG));
    let proven = ask(Demand {
        barriers: vec![id(9, 2)],
        wait: LONG,
        whole_position: true,
        ..Demand::default()
    });
    log.append(Arc::new(Batch::new(id(9, 1), 0, Vec::new())))
        .await
        .expect("appended");
    log.append(batch(2, &["a"])).await.expect("appended");
    let covered = covered.await.expect("joined").expect("answered");
    assert!(covered.cover.is_full());
    assert_eq!(covered.counts, [[2]]);
    assert!(!proven.is_finished(), "the first barrier is not the second");
    log.append(Arc::new(Batch::new(id(9, 2), 0, Vec::new())))
        .await
        .expect("appended");
    let proven = proven.await.expect("joined").expect("answered");
    assert!(proven.cover.barriers);
    assert_eq!(proven.cover.life, 7);
    let position: Vec<_> = proven
        .cover
        .covered
        .iter()
        .map(|(_, e, s)| (e, s.last()))
        .collect();
    assert_eq!(position, [(Epoch(1), 2)]);
}

#[tokio::test]
async fn a_wrong_secret_or_another_counter_is_as_good_as_none() {
    let (_log, _, url) = node().await;
    let error = |name, secret| {
        let remote = remote(name, &url, secret);
        async move {
            let one = remote.status().await.expect_err("refused");
            let other = remote.counts(Arc::new([]), Demand::default()).await;
            assert_eq!(one, other.expect_err("refused"));
            one.to_string()
        }
    };
    assert!(error("c1", None).await.contains("secret"));
    let wrong = error("c1", secret("0123456789abcdeX")).await;
    assert!(
        wrong.contains("secret") && !wrong.contains("0123"),
        "{wrong}"
    );
    assert!(error("c2", secret(SECRET)).await.contains("c1"));
}

#[tokio::test]
async fn a_snapshot_comes_whole() {
    let (log, counter, url) = node().await;
    for sequence in 1..=20 {
        log.append(batch(sequence, &["a", "b"]))
            .await
            .expect("appended");
    }
    let mut parts = remote("c1", &url, secret(SECRET))
        .snapshot()
        .await
        .expect("begins");
    let mut decoder = SnapshotDecoder::default();
    let mut items = 0;
    while let Some(part) = parts.next().await {
        decoder.push(&part.expect("intact")).expect("intact");
        while let Some(part) = decoder.next().expect("intact") {
            if let Part::Keys { hashes, .. } = part {
                items += hashes.len() as u64;
            }
        }
    }
    decoder.finish().expect("whole");
    assert_eq!(items, counter.status().await.expect("runs").items);
}

#[tokio::test]
async fn queries_that_come_together_go_together() {
    const CALLERS: usize = 100;
    let mut told = told().await;
    let remote = remote("c1", &told.url, None);
    let ask = || remote.counts(Arc::new([tenant("a")]), Demand::default());
    let mut first = ask();
    assert!((&mut first).now_or_never().is_none());
    assert_eq!(told.seen.recv().await, Some(1));
    // While that is under way, these gather.
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
        "all but the one that has gone"
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
    // It waits there, in its second request; another is answered at once.
    told.let_go.add_permits(1);
    let other = remote.counts(Arc::new([tenant("a")]), Demand::default());
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
