//! Tests of where commits run, observed at their acknowledgement, and that a slow commit delays no
//! other work.
//!
//! Invariant: see the [module above](super).

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::LocalCounter;
use headcount_log::{Delivery, DeliveryError, DeliveryTag, LocalDeliveries, LocalLog, Log, local};
use headcount_model::{
    Batch, BatchId, Epoch, ItemHash, Partition, Partitioning, Sequence, TenantItems, TenantName,
};
use headcount_store::memory::{MemoryReader, MemoryStore};
use headcount_store::{StoreReader, StoreShape};

/// Records the thread of each acknowledgement, and holds acknowledgements while `wait` is set.
struct Watched {
    inside: LocalDeliveries,
    threads: Arc<Mutex<Vec<String>>>,
    wait: Arc<AtomicBool>,
    commit_delay_max: Duration,
}

impl Deliveries for Watched {
    async fn next(&mut self) -> Result<Option<Delivery>, DeliveryError> {
        self.inside.next().await
    }

    fn commit_delay_max(&self) -> Duration {
        self.commit_delay_max
    }

    fn refuse(&mut self, up_to: DeliveryTag, why: &str) -> bool {
        self.inside.refuse(up_to, why)
    }

    async fn acknowledge(&mut self, up_to: DeliveryTag) {
        let thread = std::thread::current();
        self.threads
            .lock()
            .push(thread.name().unwrap_or_default().to_owned());
        while self.wait.load(Ordering::Acquire) {
            // Blocks the thread, as a commit that waits for the disk does.
            std::thread::yield_now();
        }
        self.inside.acknowledge(up_to).await;
    }
}

struct Setting {
    log: LocalLog,
    counter: LocalCounter<MemoryReader>,
    threads: Arc<Mutex<Vec<String>>>,
    wait: Arc<AtomicBool>,
    ended: tokio::task::JoinHandle<Result<(), CounterError>>,
}

impl Setting {
    fn start(commit_delay_max: Duration) -> Self {
        let mut store = MemoryStore::new(StoreShape {
            partitioning: Partitioning::SINGLE,
        });
        store.set_complete(true);
        store.commit().expect("commits");
        let (log, inside) = local();
        let (threads, wait) = (Arc::default(), Arc::default());
        let deliveries = Watched {
            inside,
            threads: Arc::clone(&threads),
            wait: Arc::clone(&wait),
            commit_delay_max,
        };
        let (task, counter) = CounterTask::new("c".into(), 1, store, deliveries);
        let ended = tokio::spawn(host(task));
        Self {
            log,
            counter,
            threads,
            wait,
            ended,
        }
    }

    async fn append(&self, sequence: Sequence, items: u64) {
        self.log
            .append(batch(sequence, items))
            .await
            .expect("appended");
    }

    fn last_thread(&self) -> String {
        self.threads.lock().last().cloned().unwrap_or_default()
    }
}

/// A batch with items that no other batch has.
fn batch(sequence: Sequence, items: u64) -> Arc<Batch> {
    let hashes = (0..items).map(|item| ItemHash::of_id(&format!("{sequence}-{item}")));
    let items = TenantItems {
        tenant: TenantName::new("t").expect("valid"),
        hashes: hashes.collect(),
    };
    let id = BatchId {
        partition: Partition(0),
        epoch: Epoch(1),
        sequence,
    };
    Arc::new(Batch::new(id, 0, vec![items]))
}

fn runtime(workers: usize) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("worker")
        .enable_all()
        .build()
        .expect("a runtime")
}

fn with_workers(workers: usize, test: impl Future<Output = ()> + Send + 'static) {
    let runtime = runtime(workers);
    let joined = runtime.block_on(runtime.spawn(test));
    joined.expect("passed");
}

#[test]
fn posts_alone_are_committed_on_the_runtime_and_others_on_a_thread() {
    with_workers(2, async {
        let setting = Setting::start(Duration::ZERO);
        let mut sequences = 1..;
        let mut next = || sequences.next().expect("endless");
        let mut items = 0;
        for _ in 0..3 {
            setting.append(next(), 1).await;
            assert_eq!(setting.last_thread(), "worker");
            setting.append(next(), 2).await;
            assert_eq!(setting.last_thread(), "counter");
            for _ in 0..ALONE_TURNS {
                setting.append(next(), 1).await;
                assert_eq!(setting.last_thread(), "counter");
            }
            setting.append(next(), 1).await;
            assert_eq!(setting.last_thread(), "worker");
            items += 4 + u64::from(ALONE_TURNS);
        }
        let held = setting.counter.reader.committed().items();
        assert_eq!(held, items);
        drop(setting.log);
        let ended = setting.ended.await.expect("no panic");
        ended.expect("the counter ends with the log");
    });
}

/// Posts arrive alone, and all are committed on the thread.
async fn keeps_its_thread(commit_delay_max: Duration) {
    let setting = Setting::start(commit_delay_max);
    for sequence in 1..=u64::from(2 * ALONE_TURNS) {
        setting.append(sequence, 1).await;
        assert_eq!(setting.last_thread(), "counter");
    }
}

#[test]
fn the_only_worker_is_not_lent() {
    with_workers(1, keeps_its_thread(Duration::ZERO));
}

#[test]
fn behind_a_log_that_nobody_waits_for_the_counter_keeps_its_thread() {
    with_workers(2, keeps_its_thread(Duration::from_millis(1)));
}

#[test]
fn a_slow_commit_of_a_post_alone_holds_up_nobody_else() {
    // The test runs outside the runtime, so only the counter wakes workers of the runtime from here
    // on.
    let runtime = runtime(2);
    let _inside = runtime.enter();
    let setting = Setting::start(Duration::ZERO);
    let listener = TcpListener::bind("127.0.0.1:0");
    let listener = runtime.block_on(listener).expect("a port");
    let address = listener.local_addr().expect("bound");
    let echo = runtime.spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        let byte = stream.read_u8().await.expect("a byte");
        stream.write_u8(byte).await.expect("sent");
    });
    setting.wait.store(true, Ordering::Release);
    let log = setting.log.clone();
    let append = runtime.spawn(async move {
        // Long enough for both workers to sleep. The worker that polls the sockets is woken and
        // blocks.
        tokio::time::sleep(Duration::from_millis(50)).await;
        log.append(batch(1, 1)).await
    });
    while setting.threads.lock().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(setting.last_thread(), "worker");

    let mut stream = std::net::TcpStream::connect(address).expect("connected");
    let limit = Some(Duration::from_secs(10));
    stream.set_read_timeout(limit).expect("set");
    stream.write_all(&[7]).expect("sent");
    let mut answer = [0];
    let answered = stream.read_exact(&mut answer);
    let meanwhile = !append.is_finished();
    setting.wait.store(false, Ordering::Release);
    answered.expect("echoed while the other worker waits for the disk");
    assert_eq!((answer, meanwhile), ([7], true));
    runtime.block_on(echo).expect("joined");
    let appended = runtime.block_on(append).expect("joined");
    appended.expect("appended");
}
