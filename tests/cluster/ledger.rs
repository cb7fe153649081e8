//! A load of clients that retry, and what is known of it from the outside.
//!
//! Invariant checked at every exact read: what was acknowledged before it (by that coordinator; by anyone where it
//! is strong) ≤ count ≤ what was ever attempted, and no less than the coordinator showed before. At the end, when
//! all is retried: equality, on every coordinator and on every counter alone.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::node::{Answer, client_builder};
use crate::process::Face;
use crate::wait;

pub const TENANTS: usize = 5;
const CLIENTS: u64 = 6;
const READERS: u64 = 3;
const BATCH_ITEMS_MAX: u64 = 40;

/// What a client waits for one answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(6);

/// Between two posts of one client: the machine has other tests to run too.
const PACE: Duration = Duration::from_millis(4);

/// What is known of one tenant. Its ids are numbers from 0, given out before they are posted.
#[derive(Default)]
struct Book {
    attempted: u64,
    acknowledged: HashSet<u64>,
    /// The same by coordinator.
    by_face: Vec<HashSet<u64>>,
    /// The greatest exact count that a coordinator has shown.
    shown: Vec<u64>,
}

/// An item: the tenant's number and the id's.
type Item = (usize, u64);

struct World {
    faces: Vec<Face>,
    http: Client,
    books: Vec<Mutex<Book>>,
    /// Given up by their clients, to be posted again at the end.
    left: Mutex<Vec<Vec<Item>>>,
    posts_acknowledged: AtomicU64,
    exact_reads: AtomicU64,
    done: AtomicBool,
}

/// A load that runs until it is finished.
pub struct Load {
    world: Arc<World>,
    tasks: Vec<JoinHandle<()>>,
}

/// Numbers by chance, by xorshift.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).expect("randomness");
        Self(u64::from_le_bytes(seed) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn tenant(number: usize) -> String {
    format!("t{number}")
}

impl World {
    fn book(&self, tenant: usize) -> parking_lot::MutexGuard<'_, Book> {
        self.books[tenant].lock()
    }

    /// New items, some that were posted before, or both.
    fn make_post(&self, dice: &mut Dice) -> Vec<Item> {
        let size = match dice.below(2) {
            0 => 1,
            _ => 1 + dice.below(BATCH_ITEMS_MAX),
        };
        let start = dice.below(TENANTS as u64) as usize;
        // A batch holds items of two tenants.
        let items = (0..size).map(|n| {
            let tenant = (start + (n % 2) as usize) % TENANTS;
            let mut book = self.book(tenant);
            if book.attempted > 0 && dice.below(4) == 0 {
                let end = book.attempted;
                return (tenant, dice.below(end));
            }
            book.attempted += 1;
            (tenant, book.attempted - 1)
        });
        items.collect()
    }

    /// Whether the post was acknowledged, which is noted.
    async fn post(&self, face: usize, items: &[Item]) -> bool {
        let Some(url) = self.faces[face].url() else {
            return false;
        };
        let item = |(of, id): &Item| json!({"id": format!("i{id}"), "tenant": tenant(*of)});
        let body = match items {
            [one] => item(one),
            many => many.iter().map(item).collect(),
        };
        let sent = self
            .http
            .post(format!("{url}/items"))
            .json(&body)
            .timeout(REQUEST_LIMIT);
        let Ok(answer) = Answer::try_of(sent).await else {
            return false;
        };
        if answer.status != StatusCode::OK {
            assert_eq!(
                answer.status, 503,
                "only 200 and 503 are answers: {}",
                answer.text
            );
            assert!(!answer.header("retry-after").is_empty(), "{}", answer.text);
            return false;
        }
        for (tenant, id) in items {
            let mut book = self.book(*tenant);
            book.acknowledged.insert(*id);
            book.by_face[face].insert(*id);
        }
        self.posts_acknowledged.fetch_add(1, Ordering::SeqCst);
        true
    }

    async fn post_until_done(self: Arc<Self>) {
        let mut dice = Dice::new();
        while !self.done.load(Ordering::SeqCst) {
            let items = self.make_post(&mut dice);
            let gives_up = dice.below(2) == 0;
            loop {
                // A retry may go to another coordinator.
                let face = dice.below(self.faces.len() as u64) as usize;
                if self.post(face, &items).await {
                    break;
                }
                if gives_up || self.done.load(Ordering::SeqCst) {
                    self.left.lock().push(items);
                    break;
                }
                tokio::time::sleep(PACE * 10).await;
            }
            tokio::time::sleep(PACE).await;
        }
    }

    async fn read_until_done(self: Arc<Self>) {
        let mut dice = Dice::new();
        while !self.done.load(Ordering::SeqCst) {
            let face = dice.below(self.faces.len() as u64) as usize;
            let tenant = dice.below(TENANTS as u64) as usize;
            let strong = dice.below(5) == 0;
            self.read(face, tenant, strong).await;
            tokio::time::sleep(PACE * 2).await;
        }
    }

    async fn read(&self, face: usize, number: usize, strong: bool) {
        let Some(url) = self.faces[face].url() else {
            return;
        };
        let consistency = if strong { "strong" } else { "session" };
        let url = format!(
            "{url}/items/{}/count?timeout_ms=2000&consistency={consistency}",
            tenant(number)
        );
        let floor = {
            let book = self.book(number);
            let acknowledged = match strong {
                true => book.acknowledged.len(),
                false => book.by_face[face].len(),
            };
            book.shown[face].max(acknowledged as u64)
        };
        let Ok(answer) = Answer::try_of(self.http.get(url).timeout(REQUEST_LIMIT)).await else {
            return;
        };
        if answer.status != StatusCode::OK {
            assert_eq!(
                answer.status, 503,
                "only 200 and 503 are answers: {}",
                answer.text
            );
            return;
        }
        let count = answer.json["count"].as_u64().expect("a count");
        let exact = answer.json["exact"].as_bool().expect("exact or not");
        let mut book = self.book(number);
        let ceiling = book.attempted;
        assert!(
            count <= ceiling,
            "{}: {count} of {ceiling} attempted",
            tenant(number)
        );
        if exact {
            assert!(
                floor <= count,
                "coordinator {face}, {}, {consistency}: exact {count}, but {floor} were acknowledged or shown",
                tenant(number)
            );
            book.shown[face] = book.shown[face].max(count);
            self.exact_reads.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Load {
    /// Starts clients and readers of all coordinators, and waits until they get answers.
    pub async fn start(cluster: &Cluster) -> Self {
        let faces = cluster.faces();
        let book = || Book {
            by_face: vec![HashSet::new(); faces.len()],
            shown: vec![0; faces.len()],
            ..Book::default()
        };
        let world = Arc::new(World {
            books: (0..TENANTS).map(|_| Mutex::new(book())).collect(),
            faces: faces.clone(),
            http: client_builder().build().expect("a client"),
            left: Mutex::new(Vec::new()),
            posts_acknowledged: AtomicU64::new(0),
            exact_reads: AtomicU64::new(0),
            done: AtomicBool::new(false),
        });
        let mut tasks = Vec::new();
        for _ in 0..CLIENTS {
            tasks.push(tokio::spawn(Arc::clone(&world).post_until_done()));
        }
        for _ in 0..READERS {
            tasks.push(tokio::spawn(Arc::clone(&world).read_until_done()));
        }
        let mut load = Self { world, tasks };
        load.flows().await;
        load
    }

    /// Posts acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.world.posts_acknowledged.load(Ordering::SeqCst)
    }

    /// Exact counts read so far.
    pub fn exact_reads(&self) -> u64 {
        self.world.exact_reads.load(Ordering::SeqCst)
    }

    /// Waits until posts are acknowledged and reads are exact, from now on.
    pub async fn flows(&mut self) {
        self.flows_within(wait::PATIENCE).await;
    }

    pub async fn flows_within(&mut self, limit: Duration) {
        let posts = self.acknowledged() + 20;
        let reads = self.exact_reads() + 5;
        wait::until_within(
            "posts that are acknowledged and exact reads",
            limit,
            async || {
                self.fail_early();
                match self.acknowledged() >= posts && self.exact_reads() >= reads {
                    true => Ok(()),
                    false => Err(format!(
                        "{} of {posts} posts, {} of {reads} reads",
                        self.acknowledged(),
                        self.exact_reads()
                    )),
                }
            },
        )
        .await;
    }

    /// Lets it run for a while.
    pub async fn runs_for(&mut self, time: Duration) {
        tokio::time::sleep(time).await;
        self.fail_early();
    }

    /// A task that found the invariant broken has ended.
    fn fail_early(&self) {
        let ended = self.tasks.iter().any(JoinHandle::is_finished);
        assert!(
            !ended,
            "a client or a reader found something wrong; see above"
        );
    }

    /// Ends the load, posts again what was not acknowledged, and checks that every coordinator, every counter
    /// alone, and every counter's folder hold the same exact counts. Then everything is stopped.
    pub async fn finish(self, cluster: &mut Cluster) {
        let counts = self.settle(cluster).await;
        let total = counts.iter().sum();
        check(cluster, &counts).await;
        cluster.stop_and_verify(TENANTS, total);
    }

    /// The first part of [`Self::finish`]: after it every item is acknowledged. Gives the exact counts.
    pub async fn settle(self, cluster: &Cluster) -> Vec<u64> {
        self.world.done.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.expect("every answer was within the invariant");
        }
        let left = std::mem::take(&mut *self.world.left.lock());
        let faces = cluster.faces().len();
        eprintln!(
            "{} posts acknowledged, {} given up, {} exact reads",
            self.world.posts_acknowledged.load(Ordering::SeqCst),
            left.len(),
            self.world.exact_reads.load(Ordering::SeqCst)
        );
        for (turn, items) in left.iter().enumerate() {
            wait::until("the end of the retries", async || {
                match self.world.post(turn % faces, items).await {
                    true => Ok(()),
                    false => Err("not acknowledged"),
                }
            })
            .await;
        }
        let counts = self.world.books.iter().map(|book| {
            let book = book.lock();
            assert_eq!(
                book.acknowledged.len() as u64,
                book.attempted,
                "all was retried"
            );
            book.attempted
        });
        counts.collect()
    }
}

/// Asserts that every coordinator, and every running counter alone, answers exactly these counts.
pub async fn check(cluster: &mut Cluster, counts: &[u64]) {
    for coordinator in 0..cluster.faces().len() {
        let answer = exact_counts(cluster, coordinator, "strong").await;
        assert_eq!(answer, counts, "coordinator {coordinator}");
    }
    cluster.wait_until_complete().await;
    let total: u64 = counts.iter().sum();
    let names = cluster.running();
    wait::until("counters that hold everything", async || {
        let seen = cluster.counters(0).await?;
        match names.iter().all(|name| seen[name]["items"] == json!(total)) {
            true => Ok(()),
            false => Err(format!("{total} items, but {seen:?}")),
        }
    })
    .await;
    for name in &names {
        for other in names.iter().filter(|other| *other != name) {
            cluster.counter(other).process.pause();
        }
        let answer = exact_counts(cluster, 0, "session").await;
        for other in names.iter().filter(|other| *other != name) {
            cluster.counter(other).process.resume();
        }
        assert_eq!(answer, counts, "{name} alone");
    }
}

async fn exact_counts(cluster: &mut Cluster, coordinator: usize, consistency: &str) -> Vec<u64> {
    let tenants: String = (0..TENANTS)
        .map(|number| format!("&tenant={}", tenant(number)))
        .collect();
    let path = format!("/counts?consistency={consistency}{tenants}");
    let counts = wait::until("exact counts", async || {
        let answer = cluster.try_get(coordinator, &path).await;
        let answer = answer.map_err(|why| why.to_string())?;
        match (&answer.json["exact"], answer.json["counts"].as_array()) {
            (Value::Bool(true), Some(counts)) => Ok(counts.clone()),
            _ => Err(answer.text),
        }
    })
    .await;
    let count = |count: &Value| count["count"].as_u64().expect("a number");
    counts.iter().map(count).collect()
}
