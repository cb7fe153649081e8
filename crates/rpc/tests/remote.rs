//! Tests of a remote counter over a real connection to its node.
//!
//! Invariant: the remote counter answers as the counter itself does.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "these are tests"
)]

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use headcount_counter::snapshot::{Part, SnapshotDecoder};
use headcount_counter::{CounterTask, LocalCounter};
use headcount_http::{BodyLimits, CounterApp, Endpoint, ServerLimits, counter_routes, serve};
use headcount_log::{LocalLog, Log, local};
use headcount_model::{
    Batch, BatchId, ClusterSecret, CounterName, Epoch, ItemHash, Partition, Partitioning,
    Requirement, TenantItems, TenantName,
};
use headcount_rpc::remote::{NodeClient, RemoteCounter};
use headcount_rpc::{Coverage, ListQuery, Peer, Queries, QueryError, ReadRequirement};
use headcount_runtime::supervisor::Supervisor;
use headcount_store::memory::{MemoryReader, MemoryStore};
use headcount_store::{Store, StoreShape};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

const SECRET: &str = "0123456789abcdef";
const LONG: Duration = Duration::from_secs(30);

fn secret(text: &str) -> Option<ClusterSecret> {
    Some(ClusterSecret::new(text).expect("allowed"))
}

fn remote(name: &str, url: &str, secret: Option<ClusterSecret>) -> RemoteCounter {
    let name = CounterName::new(name).expect("allowed");
    let client = NodeClient::new(&Supervisor::default()).expect("a client");
    RemoteCounter::new(name, url, secret, &client).expect("a URL")
}

/// A counter, and the URL of its node.
async fn node() -> (LocalLog, LocalCounter<MemoryReader>, String) {
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

fn tenant(name: &str) -> TenantName {
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
fn batch(sequence: u64, tenants: &[&str]) -> Arc<Batch> {
    let items = tenants.iter().map(|name| TenantItems {
        tenant: tenant(name),
        hashes: [ItemHash::of_id(&sequence.to_string())].into(),
    });
    Arc::new(Batch::new(id(1, sequence), 0, items.collect()))
}

fn demand(sequence: u64, wait: Duration) -> ReadRequirement {
    let mut requirement = Requirement::default();
    requirement.add(Partition(0), Epoch(1), sequence);
    ReadRequirement {
        requirement,
        wait,
        ..ReadRequirement::default()
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
        let demand = ReadRequirement {
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
    let ask = |demand: ReadRequirement| {
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
    let proven = ask(ReadRequirement {
        barriers: vec![id(9, 2)],
        wait: LONG,
        whole_position: true,
        ..ReadRequirement::default()
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
            let other = remote
                .counts(Arc::new([]), ReadRequirement::default())
                .await;
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

/// A query of each kind.
async fn ask_all(
    remote: &RemoteCounter,
    demand: &ReadRequirement,
) -> [Result<Coverage, QueryError>; 3] {
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
    // Queries of every kind for a batch that no counter has, until no more may wait.
    let places = remote.waiting_places().0.available_permits();
    let waiting: Vec<_> = (0..places.div_ceil(3))
        .map(|_| {
            let remote = Arc::clone(&remote);
            tokio::spawn(async move { ask_all(&remote, &demand(3, LONG)).await })
        })
        .collect();
    let deadline = Instant::now() + LONG;
    while remote.waiting_places().0.available_permits() > 0 {
        assert!(Instant::now() < deadline, "they wait");
        sleep(Duration::from_millis(1)).await;
    }
    let soon = LONG / 3;
    let ask = |demand: ReadRequirement| {
        let remote = Arc::clone(&remote);
        async move {
            timeout(soon, ask_all(&remote, &demand))
                .await
                .expect("soon")
        }
    };
    let whole = ReadRequirement {
        whole_position: true,
        ..demand(1, LONG)
    };
    for demand in [ReadRequirement::default(), demand(1, LONG), whole] {
        for answer in ask(demand).await {
            assert!(answer.expect("answers").is_full());
        }
    }
    // A query without a permit waits at most its own time, and then returns what was known.
    for late in ask(demand(3, Duration::from_millis(50))).await {
        assert!(!late.expect("answers").is_full());
    }
    // A query for a batch that arrives a little later does not queue behind the others.
    let own = tokio::spawn(ask(demand(2, LONG)));
    log.append(batch(2, &["a"])).await.expect("appended");
    for answer in own.await.expect("joined") {
        assert!(answer.expect("answers").is_full());
    }
    let here = remote.waiting_places().1;
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
