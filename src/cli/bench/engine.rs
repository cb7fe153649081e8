//! The sender threads. Each has its own runtime and drives many connections.
//!
//! Invariant: all connections are established before the clock starts, and a run ends only when
//! every connection has ended.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use super::plan::{Plan, Recipe};
use super::schedule::{Schedule, Window};
use super::tally::Tally;
use super::target::Host;
use super::wire::{self, Wire};
use super::worker::{OpenLoop, Shared, Worker};
use super::{BenchError, Target};
use crate::socket::{Detached, SocketPlace};

/// Maximum number of connections that are established concurrently before the run.
const CONNECTING_MAX: usize = 32;
/// Timeout for establishing a connection before the run.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum wait for the next slot of a schedule: each wake-up costs time.
const TICK_MIN: Duration = Duration::from_micros(100);
/// Maximum wait for the next slot of a schedule, so that a failed run ends soon.
const TICK_MAX: Duration = Duration::from_millis(100);

/// How to send requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    pub(super) connections: u32,
    pub(super) threads: u32,
    /// Requests per second. If not given, each connection sends its next request as soon as it has
    /// a response.
    pub(super) rate: Option<f64>,
    pub(super) timeout: Duration,
    pub(super) window: Window,
}

/// Result of a run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) tally: Tally,
    /// Time of the first request.
    pub(super) origin: Instant,
    /// Duration of the measurement.
    pub(super) measured: Duration,
    /// Number of scheduled requests for which no connection was free before the end.
    pub(super) unsent: u64,
}

/// Streams with the numbers of their connections.
type Streams = Vec<(u32, Detached)>;

/// Connects, sends the requests and adds up the results.
pub(super) async fn run(
    target: &Target,
    recipe: Recipe,
    effort: Effort,
) -> Result<Run, BenchError> {
    let place = resolve(target).await?;
    let streams = connect_all(&place, effort).await?;
    // `send` joins threads, which would block a thread of the runtime.
    let sending = move || send(&place, streams, Arc::new(recipe), effort);
    tokio::task::spawn_blocking(sending)
        .await
        .map_err(|error| BenchError::Thread(error.to_string()))?
}

async fn resolve(target: &Target) -> Result<SocketPlace, BenchError> {
    let (host, port) = match &target.host {
        Host::Named { name, port } => (name.as_str(), *port),
        Host::Socket(path) => return Ok(SocketPlace::Unix(path.clone())),
    };
    let unknown = |why: String| BenchError::NoAnswer(format!("{host}: {why}"));
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|error| unknown(error.to_string()))?;
    let places: Vec<SocketPlace> = found.map(SocketPlace::Tcp).collect();
    // A name may have several addresses with a listener on only one of them.
    for place in &places {
        if connect(place).await.is_ok() {
            return Ok(place.clone());
        }
    }
    let first = places.into_iter().next();
    first.ok_or_else(|| unknown("no address".to_owned()))
}

async fn connect(place: &SocketPlace) -> Result<Detached, BenchError> {
    let failed = |why: String| BenchError::NoAnswer(format!("{place}: {why}"));
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, wire::connect(place)).await;
    let stream = connecting
        .map_err(|_| failed("timeout while connecting".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    stream.detach().map_err(|error| failed(error.to_string()))
}

/// Establishes all connections and distributes them to the threads.
async fn connect_all(place: &SocketPlace, effort: Effort) -> Result<Vec<Streams>, BenchError> {
    let all: Vec<Detached> = stream::iter(0..effort.connections)
        .map(|_| connect(place))
        .buffered(CONNECTING_MAX)
        .try_collect()
        .await?;
    let mut dealt: Vec<Streams> = (0..effort.threads).map(|_| Vec::new()).collect();
    for (connection, stream) in (0..).zip(all) {
        dealt[(connection % effort.threads) as usize].push((connection, stream));
    }
    Ok(dealt)
}

fn send(
    place: &SocketPlace,
    streams: Vec<Streams>,
    recipe: Arc<Recipe>,
    effort: Effort,
) -> Result<Run, BenchError> {
    let open = effort.rate.map(|rate| OpenLoop {
        schedule: Schedule::new(rate, &effort.window),
        due: Semaphore::new(0),
        taken: AtomicU64::new(0),
    });
    let shared = Arc::new(Shared {
        origin: Instant::now(),
        window: effort.window,
        work: recipe.work,
        open,
        started: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        error: Mutex::new(None),
    });
    let mut tally = Tally::new(recipe.tenants.count())?;
    let threads: Vec<_> = streams
        .into_iter()
        .map(|streams| {
            let (place, shared, recipe) = (place.clone(), shared.clone(), recipe.clone());
            thread::Builder::new()
                .name("bench".to_owned())
                .spawn(move || drive(&place, streams, &shared, &recipe, effort.timeout))
        })
        .collect();
    if let Some(error) = threads.iter().find_map(|thread| thread.as_ref().err()) {
        shared.fail(BenchError::Thread(error.to_string()));
    }
    pace(&shared, effort.connections);
    for thread in threads.into_iter().flatten() {
        match thread.join() {
            Ok(done) => tally.add(&done?)?,
            Err(_) => return Err(BenchError::Thread("a sender thread panicked".to_owned())),
        }
    }
    if let Some(error) = shared.error.lock().take() {
        return Err(error);
    }
    let unsent = shared.open.as_ref().map_or(0, |open| {
        let taken = open.taken.load(Ordering::Relaxed);
        open.schedule.slots.saturating_sub(taken)
    });
    Ok(Run {
        measured: effort.window.measured(tally.last),
        tally,
        origin: shared.origin,
        unsent,
    })
}

/// Drives the connections of one thread until all of them have ended.
fn drive(
    place: &SocketPlace,
    streams: Streams,
    shared: &Arc<Shared>,
    recipe: &Arc<Recipe>,
    timeout: Duration,
) -> Result<Tally, BenchError> {
    let thread_error = |error: std::io::Error| BenchError::Thread(error.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(thread_error)?;
    let tally = Rc::new(RefCell::new(Tally::new(recipe.tenants.count())?));
    let lanes = LocalSet::new();
    runtime.block_on(async {
        for (connection, stream) in streams {
            let lane = Worker {
                shared: shared.clone(),
                plan: Plan::new(recipe.clone(), connection),
                wire: Wire::new(stream, place.clone(), timeout).map_err(thread_error)?,
                tally: tally.clone(),
            };
            lanes.spawn_local(lane.run());
        }
        Ok::<(), BenchError>(())
    })?;
    // Ends when the last worker has ended.
    runtime.block_on(lanes);
    let tally = Rc::into_inner(tally).map(RefCell::into_inner);
    tally.ok_or_else(|| BenchError::Thread("a connection did not end".to_owned()))
}

/// Releases the slots of a schedule when they are due, until the run is over.
///
/// It uses thread sleep, which is accurate to 0.1 ms; a timer of the runtime would round up to 1
/// ms.
fn pace(shared: &Shared, connections: u32) {
    let Some(open) = &shared.open else {
        return;
    };
    let mut released = 0;
    while released < open.schedule.slots && !shared.is_stopped() {
        let now = shared.origin.elapsed();
        let due = open.schedule.due_by(now);
        open.due.add_permits((due - released) as usize);
        released = due;
        if shared.window.is_over(now) {
            break;
        }
        let wait = open
            .schedule
            .due(released)
            .saturating_sub(shared.origin.elapsed());
        thread::sleep(wait.clamp(TICK_MIN, TICK_MAX));
    }
    // Wakes the workers that wait for a slot; they find that none is left and end.
    open.due.add_permits(connections as usize);
}
