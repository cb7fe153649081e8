//! A load of clients that retry and of readers that ask for everything, whose every answer is
//! checked.
//!
//! Invariant: what the checker promises (tests/checker) holds for every answer: for counts, single
//! items and pages of tenants. At the end, when all is retried: equality, on every coordinator and
//! on every counter alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::{Client, StatusCode};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::checker::{self, CERTAIN_MS, Consistency, Dice, Done, Habits, Item, Ledger, What};
use crate::cluster::Cluster;
use crate::ending;
use crate::node::{Answer, client_builder};
use crate::process::Face;
use crate::wait;

/// Tenants whose items are posted all the time.
const TENANTS_HOT: u64 = 5;

/// All tenants. The others appear one by one, so that listings change.
const TENANTS: u64 = 60;

const CLIENTS: u64 = 6;
const READERS: u64 = 4;
const BATCH_ITEMS_MAX: u64 = 40;

/// One post of so many has an item of a new tenant.
const POSTS_PER_TENANT: u64 = 100;

/// What a client waits for one answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(6);

/// Between two posts of one client: the machine has other tests to run too.
const PACE: Duration = Duration::from_millis(4);

/// Exact answers of each kind of read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExactReads {
    pub counts: u64,
    pub items: u64,
    pub pages: u64,
}

impl ExactReads {
    fn add(&mut self, what: &What) {
        match what {
            What::Counts(_) => self.counts += 1,
            What::Item(_) => self.items += 1,
            What::Page(_) => self.pages += 1,
        }
    }

    /// Whether there are so many more than there were.
    fn is_beyond(&self, before: &Self, more: u64) -> bool {
        self.counts >= before.counts + more
            && self.items >= before.items + more
            && self.pages >= before.pages + more
    }
}

struct World {
    faces: Vec<Face>,
    /// The coordinators that are posted to.
    post_to: Vec<usize>,
    http: Client,
    ledger: Mutex<Ledger>,
    habits: Habits,
    /// Tenants that have appeared.
    appeared: AtomicU64,
    /// Given up by their clients, to be posted again at the end.
    left: Mutex<Vec<Vec<Item>>>,
    posts_acknowledged: AtomicU64,
    exact_reads: Mutex<ExactReads>,
    exact_probes: AtomicU64,
    done: AtomicBool,
}

/// A load that runs until it is finished.
pub struct Load {
    world: Arc<World>,
    tasks: Vec<JoinHandle<()>>,
}

/// Names that are new are not always the last ones: 101 is a prime.
fn tenant(number: u64) -> String {
    format!("t{:03}", number * 37 % 101)
}

impl World {
    /// New items, some that were posted before, or both.
    fn make_post(&self, dice: &mut Dice) -> Vec<Item> {
        let size = match dice.below(2) {
            0 => 1,
            _ => 1 + dice.below(BATCH_ITEMS_MAX),
        };
        let start = dice.below(TENANTS_HOT);
        let mut ledger = self.ledger.lock();
        // A batch holds items of two tenants.
        let items = (0..size).map(|n| {
            let tenant = tenant((start + n % 2) % TENANTS_HOT);
            let attempted = ledger.attempted(&tenant);
            let number = match dice.below(4) {
                0 if attempted > 0 => dice.below(attempted),
                _ => attempted,
            };
            let id = format!("i{number}");
            let item = Item { tenant, id };
            ledger.attempt(&item);
            item
        });
        let mut items: Vec<_> = items.collect();
        if dice.below(POSTS_PER_TENANT) == 0 {
            let number = self.appeared.load(Ordering::SeqCst) % TENANTS;
            self.appeared.store(number + 1, Ordering::SeqCst);
            let tenant = tenant(number);
            let id = format!("i{}", ledger.attempted(&tenant));
            items.push(Item { tenant, id });
            items.iter().for_each(|item| ledger.attempt(item));
        }
        items
    }

    /// Whether the post was acknowledged, which is noted.
    async fn post(&self, face: usize, items: &[Item]) -> bool {
        let Some(url) = self.faces[face].url() else {
            return false;
        };
        let item = |item: &Item| json!({"id": item.id, "tenant": item.tenant});
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
        let token = answer.json["token"].as_str().expect("a token");
        self.ledger.lock().acknowledge(face, items, token);
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
                let face = self.post_to[dice.below(self.post_to.len() as u64) as usize];
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
        let mut next = None;
        while !self.done.load(Ordering::SeqCst) {
            let face = dice.below(self.faces.len() as u64) as usize;
            let read = match next.take() {
                Some(read) => read,
                None => {
                    tokio::time::sleep(PACE * 2).await;
                    let Some((life, _)) = self.faces[face].life() else {
                        continue;
                    };
                    let ledger = self.ledger.lock();
                    self.habits.plan(&mut dice, &ledger, face, life)
                }
            };
            let done = self.read(read).await;
            next = done.and_then(|done| {
                checker::follow(&mut dice, &done.begun.read, &done.answer, done.is_news)
            });
        }
    }

    /// Posts one new item to one coordinator, and asks another for it strongly as soon as it is
    /// acknowledged.
    async fn probe_until_done(self: Arc<Self>, post_to: usize, ask: usize) {
        let mut dice = Dice::new();
        while !self.done.load(Ordering::SeqCst) {
            tokio::time::sleep(PACE).await;
            let tenant = tenant(dice.below(TENANTS_HOT));
            let item = {
                let mut ledger = self.ledger.lock();
                let id = format!("i{}", ledger.attempted(&tenant));
                let item = Item { tenant, id };
                ledger.attempt(&item);
                item
            };
            if !self.post(post_to, std::slice::from_ref(&item)).await {
                self.left.lock().push(vec![item]);
                continue;
            }
            let Some((life, _)) = self.faces[ask].life() else {
                continue;
            };
            let what = match dice.below(2) {
                0 => What::Counts(vec![item.tenant]),
                _ => What::Item(item),
            };
            let probe = checker::Read {
                face: ask,
                life,
                what,
                consistency: Consistency::Strong,
                after: None,
                timeout_ms: CERTAIN_MS,
            };
            if self.read(probe).await.is_some_and(|done| done.answer.exact) {
                self.exact_probes.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    async fn read(&self, read: checker::Read) -> Option<Done> {
        let life = self.faces[read.face].life();
        let (_, url) = life.filter(|(life, _)| *life == read.life)?;
        let done = checker::ask(&self.http, &url, &self.ledger, read, REQUEST_LIMIT).await?;
        if done.answer.exact {
            self.exact_reads.lock().add(&done.begun.read.what);
        }
        Some(done)
    }
}

impl Load {
    /// Starts clients and readers of all coordinators, and waits until they get answers.
    pub async fn start(cluster: &Cluster) -> Self {
        Self::of_clients(CLIENTS, cluster).await
    }

    /// The same with another number of clients.
    pub async fn of_clients(clients: u64, cluster: &Cluster) -> Self {
        let all = (0..cluster.faces().len()).collect();
        Self::of_clients_who_post_to(all, clients, cluster).await
    }

    /// The same where clients post to these coordinators alone.
    pub async fn of_clients_who_post_to(
        post_to: Vec<usize>,
        clients: u64,
        cluster: &Cluster,
    ) -> Self {
        let faces = cluster.faces();
        let world = Arc::new(World {
            ledger: Mutex::new(Ledger::new(faces.len())),
            faces,
            post_to,
            http: client_builder().build().expect("a client"),
            habits: Habits {
                favourites: (0..TENANTS_HOT).map(tenant).collect(),
                prefix: "t".to_owned(),
            },
            appeared: AtomicU64::new(TENANTS_HOT),
            left: Mutex::new(Vec::new()),
            posts_acknowledged: AtomicU64::new(0),
            exact_reads: Mutex::default(),
            exact_probes: AtomicU64::new(0),
            done: AtomicBool::new(false),
        });
        let mut tasks = Vec::new();
        for _ in 0..clients {
            tasks.push(tokio::spawn(Arc::clone(&world).post_until_done()));
        }
        for _ in 0..READERS {
            tasks.push(tokio::spawn(Arc::clone(&world).read_until_done()));
        }
        let mut load = Self { world, tasks };
        load.flows().await;
        load
    }

    /// Starts so many clients that post to one coordinator and ask another at once.
    pub fn add_probes(&mut self, count: u64, post_to: usize, ask: usize) {
        for _ in 0..count {
            let probing = Arc::clone(&self.world).probe_until_done(post_to, ask);
            self.tasks.push(tokio::spawn(probing));
        }
    }

    /// Exact answers to those so far.
    pub fn exact_probes(&self) -> u64 {
        self.world.exact_probes.load(Ordering::SeqCst)
    }

    /// Posts acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.world.posts_acknowledged.load(Ordering::SeqCst)
    }

    /// Exact answers so far.
    pub fn exact_reads(&self) -> ExactReads {
        *self.world.exact_reads.lock()
    }

    /// Waits until posts are acknowledged and reads of every kind are exact, from now on.
    pub async fn flows(&mut self) {
        self.flows_within(wait::PATIENCE).await;
    }

    pub async fn flows_within(&mut self, limit: Duration) {
        let posts = self.acknowledged() + 20;
        let before = self.exact_reads();
        wait::until_within(
            "posts that are acknowledged and exact reads",
            limit,
            async || {
                self.fail_early();
                let reads = self.exact_reads();
                match self.acknowledged() >= posts && reads.is_beyond(&before, 3) {
                    true => Ok(()),
                    false => Err(format!(
                        "{} of {posts} posts, {reads:?} after {before:?}",
                        self.acknowledged(),
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

    /// Ends the load, posts again what was not acknowledged, and checks that every coordinator,
    /// every counter alone, and every counter's folder hold exactly the same. Then everything is
    /// stopped.
    pub async fn finish(self, cluster: &mut Cluster) {
        let ledger = self.settle(cluster).await;
        ending::check(cluster, &ledger).await;
        let attempted = || ledger.tenants().map(|(_, attempted)| attempted);
        cluster.stop_and_verify(attempted().count(), attempted().sum());
    }

    /// The first part of [`Self::finish`]: after it every item is acknowledged.
    pub async fn settle(self, cluster: &Cluster) -> Ledger {
        self.world.done.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.expect("every answer was within the invariant");
        }
        let world = Arc::into_inner(self.world).expect("every task has ended");
        let left = std::mem::take(&mut *world.left.lock());
        eprintln!(
            "{} posts acknowledged, {} given up, {:?}",
            world.posts_acknowledged.load(Ordering::SeqCst),
            left.len(),
            *world.exact_reads.lock()
        );
        let faces = cluster.faces().len();
        for (turn, items) in left.iter().enumerate() {
            wait::until("the end of the retries", async || {
                match world.post(turn % faces, items).await {
                    true => Ok(()),
                    false => Err("not acknowledged"),
                }
            })
            .await;
        }
        let ledger = world.ledger.into_inner();
        for (tenant, attempted) in ledger.tenants() {
            assert_eq!(ledger.acknowledged(tenant), attempted, "all was retried");
        }
        ledger
    }
}
