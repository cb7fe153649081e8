//! `kill -9` under load, with clients that retry.
//!
//! Invariant checked at every read of counts, items and pages: that of the checker (tests/checker),
//! where everything that was shown stays shown over all lives, since a single process shows only
//! what is durable; afterwards, equality.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::checker::{self, CERTAIN_MS, Consistency, Dice, Habits, Item, Ledger};
use crate::node::{Node, client_builder, long, run};

/// A small table, so that files are written and merged between the kills.
const FLAGS: [&str; 2] = ["--memory-mb", "2"];

const TENANTS: usize = 10;
const CLIENTS: usize = 64;
/// Ids of a post that only its client posts.
const OWN_IDS: u64 = 5;
/// Ids of a post that the other client of its pair posts too.
const SHARED_IDS: u64 = 5;

/// What a client waits for one answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// To the checker, all lives are one.
const LIFE: u64 = 1;

struct World {
    deadline: Instant,
    url: Mutex<String>,
    ledger: Mutex<Ledger>,
    reads: AtomicU64,
    done: AtomicBool,
}

impl World {
    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url.lock())
    }

    /// Distinct ids acknowledged so far.
    fn acknowledged(&self) -> u64 {
        let ledger = self.ledger.lock();
        let tenants = ledger.tenants();
        tenants.map(|(name, _)| ledger.acknowledged(name)).sum()
    }
}

/// One client's share of the ids: its own and its pair's, each posted until acknowledged, some of
/// them twice.
async fn post_all(world: Arc<World>, http: Client, client: usize, posts: u64) {
    for post in 0..posts {
        let pair = client / 2;
        let tenant = (pair + post as usize) % TENANTS;
        let own = (0..OWN_IDS).map(|n| format!("{client}-{post}-{n}"));
        let shared = (0..SHARED_IDS).map(|n| format!("pair-{pair}-{post}-{n}"));
        let item = |id| Item {
            tenant: format!("t{tenant}"),
            id,
        };
        let items: Vec<Item> = own.chain(shared).map(item).collect();
        let mut body: Vec<Value> = items
            .iter()
            .map(|item| json!({"id": item.id, "tenant": item.tenant}))
            .collect();
        // A repetition within the request, and every other request twice.
        body.push(body[0].clone());
        let body = Value::Array(body).to_string();
        {
            let mut ledger = world.ledger.lock();
            items.iter().for_each(|item| ledger.attempt(item));
        }
        for _ in 0..1 + post % 2 {
            let token = post_until_acknowledged(&world, &http, &body).await;
            world.ledger.lock().acknowledge(0, &items, &token);
        }
    }
}

/// Gives the token.
async fn post_until_acknowledged(world: &World, http: &Client, body: &str) -> String {
    loop {
        assert!(Instant::now() < world.deadline, "not acknowledged in time");
        let sent = http
            .post(world.url("/items"))
            .header("Content-Type", "application/json")
            .body(body.to_owned())
            .send()
            .await;
        match sent {
            Ok(answer) if answer.status() == StatusCode::OK => {
                // Killed in the middle of its answer, it has not told.
                if let Ok(answer) = answer.json::<Value>().await {
                    return answer["token"].as_str().expect("a token").to_owned();
                }
            }
            Ok(answer) => assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn read_until_done(world: Arc<World>, http: Client) {
    let habits = Habits {
        favourites: (0..TENANTS).map(|tenant| format!("t{tenant}")).collect(),
        prefix: "t".to_owned(),
    };
    let mut dice = Dice::new();
    let mut next = None;
    while !world.done.load(Ordering::SeqCst) {
        let planned = || habits.plan(&mut dice, &world.ledger.lock(), 0, LIFE);
        let read = next.take().unwrap_or_else(planned);
        let url = world.url("");
        let asked = checker::ask(&http, &url, &world.ledger, read, REQUEST_LIMIT);
        let Some(done) = asked.await else { continue };
        let read = &done.begun.read;
        let can_be_exact =
            read.consistency != Consistency::Eventual && read.timeout_ms >= CERTAIN_MS;
        assert!(
            done.answer.exact || !can_be_exact,
            "one counter is always exact: {read:?}"
        );
        next = checker::follow(&mut dice, read, &done.answer, done.is_news);
        world.reads.fetch_add(1, Ordering::SeqCst);
    }
}

/// Kills the node so many times, each time after a random number of acknowledged ids in a share of
/// its own of the load.
async fn kill_at_random(
    node: &mut Node,
    world: &World,
    posting: &mut JoinSet<()>,
    kills: u64,
    total: u64,
) {
    let mut dice = Dice::new();
    let share = total / (kills + 1);
    for kill in 0..kills {
        let mark = share * kill + dice.below(share);
        eprintln!("kill {kill} after {mark} of {total} ids");
        while world.acknowledged() < mark {
            assert!(Instant::now() < world.deadline, "the load is too slow");
            while let Some(ended) = posting.try_join_next() {
                ended.expect("every post was acknowledged");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        node.kill_and_restart(&FLAGS);
        *world.url.lock() = node.url().to_owned();
    }
}

/// Asserts that the node counts every distinct id of every tenant, and that its folder holds
/// exactly these after one more kill.
async fn assert_equality(node: &mut Node, world: &World, total: u64) {
    let expected: Vec<(String, u64)> = {
        let ledger = world.ledger.lock();
        let tenants = ledger.tenants();
        tenants
            .map(|(name, distinct)| (name.to_owned(), distinct))
            .collect()
    };
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nine_under_load_loses_and_doubles_nothing() {
    let (kills, posts, minutes) = if long() { (10, 320, 30) } else { (5, 60, 5) };
    let mut node = Node::start(&FLAGS);
    let world = Arc::new(World {
        deadline: Instant::now() + Duration::from_secs(60 * minutes),
        url: Mutex::new(node.url().to_owned()),
        ledger: Mutex::new(Ledger::new(1)),
        reads: AtomicU64::new(0),
        done: AtomicBool::new(false),
    });
    let http = client_builder()
        .timeout(REQUEST_LIMIT)
        .build()
        .expect("a client");
    let mut posting: JoinSet<()> = (0..CLIENTS)
        .map(|client| post_all(Arc::clone(&world), http.clone(), client, posts))
        .collect();
    let reading: Vec<_> = (0..4)
        .map(|_| tokio::spawn(read_until_done(Arc::clone(&world), http.clone())))
        .collect();

    let total = CLIENTS as u64 * posts * OWN_IDS + CLIENTS as u64 / 2 * posts * SHARED_IDS;
    kill_at_random(&mut node, &world, &mut posting, kills, total).await;
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
    assert_equality(&mut node, &world, total).await;
}
