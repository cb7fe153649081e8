//! `kill -9` under load, with clients that retry.
//!
//! Invariant checked at every read: distinct ids acknowledged before it ≤ exact count ≤ distinct ids ever
//! attempted, and never less than an exact count read before; afterwards, equality.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::node::{Node, client_builder, long, run};

const TENANTS: usize = 10;
const CLIENTS: usize = 64;
const ITEMS_PER_POST: u64 = 10;

/// What is known from the outside, per tenant.
#[derive(Default)]
struct Ledger {
    attempted: AtomicU64,
    acknowledged: AtomicU64,
    greatest_read: AtomicU64,
}

struct World {
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

/// One client's share of a tenant's ids: its own, each posted until acknowledged, some of them twice.
async fn post_all(world: Arc<World>, http: Client, client: usize, posts: u64) {
    for post in 0..posts {
        let tenant = (client + post as usize) % TENANTS;
        let ids: Vec<String> = (0..ITEMS_PER_POST)
            .map(|n| format!("{client}-{post}-{n}"))
            .collect();
        let mut items: Vec<Value> = ids
            .iter()
            .map(|id| json!({"id": id, "tenant": format!("t{tenant}")}))
            .collect();
        // A repetition within the request, and every other request twice.
        items.push(items[0].clone());
        let body = Value::Array(items).to_string();
        let ledger = &world.ledgers[tenant];
        ledger.attempted.fetch_add(ITEMS_PER_POST, Ordering::SeqCst);
        for _ in 0..1 + post % 2 {
            post_until_acknowledged(&world, &http, &body).await;
        }
        ledger
            .acknowledged
            .fetch_add(ITEMS_PER_POST, Ordering::SeqCst);
    }
}

async fn post_until_acknowledged(world: &World, http: &Client, body: &str) {
    loop {
        let sent = http
            .post(world.url("/items"))
            .header("Content-Type", "application/json")
            .body(body.to_owned())
            .send()
            .await;
        match sent {
            Ok(answer) if answer.status() == StatusCode::OK => return,
            Ok(answer) => assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
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
            .acknowledged
            .load(Ordering::SeqCst)
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
        let ceiling = ledger.attempted.load(Ordering::SeqCst);
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
    let (kills, posts) = if long() { (10, 320) } else { (5, 60) };
    // A small table, so that files are written and merged between the kills.
    let flags = ["--memory-mb", "1"];
    let mut node = Node::start(&flags);
    let world = Arc::new(World {
        url: Mutex::new(node.url().to_owned()),
        ledgers: (0..TENANTS).map(|_| Ledger::default()).collect(),
        reads: AtomicU64::new(0),
        done: AtomicBool::new(false),
    });
    let http = client_builder()
        .timeout(Duration::from_secs(5))
        .build()
        .expect("a client");
    let posting: Vec<_> = (0..CLIENTS)
        .map(|client| tokio::spawn(post_all(Arc::clone(&world), http.clone(), client, posts)))
        .collect();
    let reading: Vec<_> = (0..4)
        .map(|reader| tokio::spawn(read_until_done(Arc::clone(&world), http.clone(), reader)))
        .collect();

    let total = CLIENTS as u64 * posts * ITEMS_PER_POST;
    let acknowledged = || -> u64 {
        world
            .ledgers
            .iter()
            .map(|ledger| ledger.acknowledged.load(Ordering::SeqCst))
            .sum()
    };
    for kill in 1..=kills {
        // At a random moment within the load's share before it: the pace of the machine decides.
        while acknowledged() < total * kill / (kills + 1) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        node.kill_and_restart(&flags);
        *world.url.lock().expect("not poisoned") = node.url().to_owned();
    }
    for posting in posting {
        posting.await.expect("every post was acknowledged");
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
        expected.insert(
            format!("t{tenant}"),
            ledger.attempted.load(Ordering::SeqCst),
        );
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
