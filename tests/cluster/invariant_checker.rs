//! A load of clients that retry and of readers that ask for everything, whose every answer is
//! checked.
//!
//! Invariant: at the end, when all is retried: equality, on every coordinator and on every counter
//! alone. Before it, every answer is held against the checker (`traffic`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::checker::Ledger;
use crate::cluster::Cluster;
use crate::ending;
use crate::traffic::{ExactReads, World};
use crate::wait;

const CLIENTS: u64 = 6;
const READERS: u64 = 4;

/// A load that runs until it is finished.
pub struct Load {
    world: Arc<World>,
    tasks: Vec<JoinHandle<()>>,
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
        let world = Arc::new(World::new(cluster.faces(), post_to));
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
