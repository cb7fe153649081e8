//! `kill -9` under load, with clients that retry.
//!
//! Invariant checked at every read: distinct ids acknowledged before it ≤ exact count ≤ distinct ids ever
//! attempted, and never less than an exact count read before; afterwards, equality.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::node::{Node, client_builder, long, run};

const TENANTS: usize = 10;
const CLIENTS: usize = 64;
/// Ids of a post that only its client posts.
const OWN_IDS: u64 = 5;
/// Ids of a post that the other client of its pair posts too.
const SHARED_IDS: u64 = 5;

/// What is known from the outside, per tenant.
#[derive(Default)]
struct Ledger {
    attempted: Mutex<HashSet<String>>,
    acknowledged: Mutex<HashSet<String>>,
    greatest_read: AtomicU64,
}

impl Ledger {
    fn attempted(&self) -> u64 {
        self.attempted.lock().expect("not poisoned").len() as u64
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.lock().expect("not poisoned").len() as u64
    }
}

struct World {
    deadline: Instant,
    url: Mutex<String>,
    ledgers: Vec<Ledger>,
    reads: AtomicU64,
    done: AtomicBool,
}

impl World {
    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url.lock().expect("not poisoned"))
    }
}

/// One client's share of the ids: its own and its pair's, each posted until acknowledged, some of them twice.
async fn post_all(world: Arc<World>, http: Client, client: usize, posts: u64) {
    for post in 0..posts {
        let pair = client / 2;
        let tenant = (pair + post as usize) % TENANTS;
        let own = (0..OWN_IDS).map(|n| format!("{client}-{post}-{n}"));
        let shared = (0..SHARED_IDS).map(|n| format!("pair-{pair}-{post}-{n}"));
        let ids: Vec<String> = own.chain(shared).collect();
        let mut items: Vec<Value> = ids
            .iter()
            .map(|id| json!({"id": id, "tenant": format!("t{tenant}")}))
            .collect();
        // A repetition within the request, and every other request twice.
        items.push(items[0].clone());
        let body = Value::Array(items).to_string();
        let ledger = &world.ledgers[tenant];
        let attempted = ids.iter().cloned();
        ledger
            .attempted
            .lock()
            .expect("not poisoned")
            .extend(attempted);
        for _ in 0..1 + post % 2 {
            post_until_acknowledged(&world, &http, &body).await;
        }
        ledger
            .acknowledged
            .lock()
            .expect("not poisoned")
            .extend(ids);
    }
}

async fn post_until_acknowledged(world: &World, http: &Client, body: &str) {
    loop {
        assert!(Instant::now() < world.deadline, "not acknowledged in time");
        let sent = http
            .post(world.url("/items"))
            .header("Content-Type", "application/json")
            .body(body.to_owned())
            .send()
            .await;
        match sent {
            Ok(answer) if answer.status() == StatusCode::OK => return,
            Ok(answer) => assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn read_until_done(world: Arc<World>, http: Client, reader: usize) {
    for turn in reader.. {
        if world.done.load(Ordering::SeqCst) {
            return;
        }
        let tenant = turn % TENANTS;
        let ledger = &world.ledgers[tenant];
        let floor = ledger
            .acknowledged()
            .max(ledger.greatest_read.load(Ordering::SeqCst));
        let sent = http
            .get(world.url(&format!("/items/t{tenant}/count")))
            .send()
            .await;
        let Ok(answer) = sent else { continue };
        if answer.status() != StatusCode::OK {
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            continue;
        }
        let Ok(body) = answer.json::<Value>().await else {
            continue;
        };
        let ceiling = ledger.attempted();
        assert_eq!(body["exact"], json!(true), "one counter is always exact");
        let count = body["count"].as_u64().expect("a count");
        assert!(
            (floor..=ceiling).contains(&count),
            "t{tenant}: {floor} <= {count} <= {ceiling}"
        );
        ledger.greatest_read.fetch_max(count, Ordering::SeqCst);
        world.reads.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nine_under_load_loses_and_doubles_nothing() {
    let (kills, posts, minutes) = if long() { (10, 320, 30) } else { (5, 60, 5) };
    // A small table, so that files are written and merged between the kills.
    let flags = ["--memory-mb", "2"];
    let mut node = Node::start(&flags);
    let world = Arc::new(World {
        deadline: Instant::now() + Duration::from_secs(60 * minutes),
        url: Mutex::new(node.url().to_owned()),
        ledgers: (0..TENANTS).map(|_| Ledger::default()).collect(),
        reads: AtomicU64::new(0),
        done: AtomicBool::new(false),
    });
    let http = client_builder()
        .timeout(Duration::from_secs(5))
        .build()
        .expect("a client");
    let mut posting: JoinSet<()> = (0..CLIENTS)
        .map(|client| post_all(Arc::clone(&world), http.clone(), client, posts))
        .collect();
    let reading: Vec<_> = (0..4)
        .map(|reader| tokio::spawn(read_until_done(Arc::clone(&world), http.clone(), reader)))
        .collect();

    let total = CLIENTS as u64 * posts * OWN_IDS + CLIENTS as u64 / 2 * posts * SHARED_IDS;
    let acknowledged = || -> u64 { world.ledgers.iter().map(Ledger::acknowledged).sum() };
    let share = total / (kills + 1);
    for kill in 0..kills {
        let mark = share * kill + random_below(share);
        eprintln!("kill {kill} after {mark} of {total} ids");
        while acknowledged() < mark {
            assert!(Instant::now() < world.deadline, "the load is too slow");
            while let Some(ended) = posting.try_join_next() {
                ended.expect("every post was acknowledged");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        node.kill_and_restart(&flags);
        *world.url.lock().expect("not poisoned") = node.url().to_owned();
    }
    while let Some(ended) = posting.join_next().await {
        ended.expect("every post was acknowledged");
    }
    world.done.store(true, Ordering::SeqCst);
    for reading in reading {
        reading.await.expect("every read was within the invariant");
    }
    assert!(
        world.reads.load(Ordering::SeqCst) > kills,
        "reads happened between the kills"
    );

    let mut expected = HashMap::new();
    for (tenant, ledger) in world.ledgers.iter().enumerate() {
        expected.insert(format!("t{tenant}"), ledger.attempted());
    }
    for (tenant, distinct) in &expected {
        assert_eq!(node.count(tenant).await, *distinct, "{tenant}");
    }
    node.kill();
    let verified = run(&[
        "verify",
        "--data-dir",
        &node.data_dir().display().to_string(),
    ]);
    assert_eq!(
        verified.stdout,
        format!("{TENANTS} tenants, {total} items: all counts agree\n"),
        "{}",
        verified.stderr
    );
}

fn random_below(end: u64) -> u64 {
    let mut bytes = [0_u8; 8];
    getrandom::fill(&mut bytes).expect("randomness");
    u64::from_le_bytes(bytes) % end
}
