//! Supervises the tasks that a node requires. If one of them ends unexpectedly, the process must
//! end. Otherwise the node would look healthy but not do its work.
//!
//! Invariant: an unexpected end is logged before it is reported. From then on it is reported to
//! every caller, and it is never reset.
//!
//! Every task that runs as long as its node is started here. Work that blocks on a thread of its
//! own uses [`catch`]. `tests/tidy` rejects other spawns, and lists the permitted ones.

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::pin;
use std::sync::OnceLock;

use futures_util::FutureExt;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Environment variable with the name of a task that must panic, to test the consequences. Only
/// debug builds read it.
const PANIC_VARIABLE: &str = "HEADCOUNT_TEST_PANIC";

macro_rules! tasks {
    ($($(#[$doc:meta])+ $task:ident = $name:literal,)+) => {
        /// A supervised task.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Task {
            $($(#[$doc])+ $task,)+
        }

        impl Task {
            /// All supervised tasks.
            pub const ALL: &[Self] = &[$(Self::$task),+];

            /// The task's name in logs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$task => $name,)+
                }
            }
        }
    };
}

tasks! {
    /// Waits for the signals that stop the process.
    Signals = "signals",
    /// Maintains the metrics recorder, which accumulates samples.
    MetricsUpkeep = "metrics-upkeep",
    /// Applies deliveries and commits them.
    Counter = "counter",
    /// The thread of the counter, while it does not run on the runtime.
    CounterThread = "counter-thread",
    /// The thread that flushes full memtables of the store.
    StoreFlush = "store-flush",
    /// The thread that compacts the store's runs.
    StoreMerge = "store-merge",
    /// Collects posts in batches and appends them.
    Batcher = "batcher",
    /// Appends barriers.
    Barriers = "barriers",
    /// Determines at startup what earlier incarnations of the coordinator acknowledged.
    StartRead = "start-read",
    /// Detects clones, and requirements that no counter can meet.
    Tending = "tending",
    /// Maintains the membership: which other nodes exist.
    Members = "members",
    /// Detects nodes that are incompatible with this one.
    Strangers = "strangers",
    /// Tracks the state of the log.
    LogState = "log-state",
    /// Queries the broker for the location of the counters' queues.
    BrokerWatch = "broker-watch",
    /// Queries one remote counter for counts.
    AskingLane = "asking-lane",
    /// Announces this node.
    Announcer = "announcer",
    /// Receives the announcements of other nodes.
    Listener = "listener",
    /// Publishes the batches of one partition.
    PublisherLane = "publisher-lane",
    /// Maintains the connection for publishing.
    PublisherLink = "publisher-link",
    /// Declares what publishing requires, and monitors the queues.
    PublisherControl = "publisher-control",
    /// Consumes a counter's queues.
    Session = "session",
    /// Acknowledges batches that a counter has committed.
    Acknowledger = "acknowledger",
    /// Keeps a counter complete: anti-entropy with its peers.
    AntiEntropy = "healer",
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The result of a task, as returned by the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The task finished normally: it was asked to end, its user is gone, or its user knows why it
    /// cannot continue.
    Done,
    /// Another task or component that it requires is gone.
    GaveUp(String),
    /// The task cannot continue because of an error of its own.
    Failed(String),
}

impl From<Infallible> for Ended {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// How a task ended unexpectedly.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum How {
    /// It panicked with this message.
    #[error("panicked: {0}")]
    Panicked(String),
    /// It could not continue because of an error of its own.
    #[error("failed: {0}")]
    Failed(String),
    /// It could not continue because another task or component was gone.
    #[error("gave up: {0}")]
    GaveUp(String),
}

/// The unexpected end of a task. The process must end; a restart recovers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the task {task} {how}")]
pub struct UnaskedEnd {
    /// The task that ended.
    pub task: Task,
    /// How it ended.
    pub how: How,
}

#[derive(Debug, Default)]
struct State {
    leaving: bool,
    going_down: bool,
    unasked: Option<UnaskedEnd>,
}

/// Starts tasks and reports those that end unexpectedly. Cheap to clone; each node has one.
#[derive(Debug, Clone, Default)]
pub struct Supervisor {
    state: watch::Sender<State>,
}

impl Supervisor {
    /// Starts a task that runs as long as its node. Aborting it is a normal end. Must be called on
    /// a Tokio runtime.
    pub fn spawn<F>(&self, task: Task, work: F) -> JoinHandle<()>
    where
        F: Future<Output: Into<Ended>> + Send + 'static,
    {
        let supervisor = self.clone();
        #[expect(clippy::disallowed_methods, reason = "the supervisor starts all tasks")]
        tokio::spawn(async move {
            let outcome = AssertUnwindSafe(provoked(task, work)).catch_unwind().await;
            let outcome = outcome.map_err(|panic| message_of(&*panic));
            supervisor.note(task, outcome.map(Into::into));
        })
    }

    fn note(&self, task: Task, outcome: Result<Ended, String>) {
        self.state.send_if_modified(|state| {
            let Some(how) = unasked(outcome, state.going_down) else {
                return false;
            };
            tracing::error!(%task, %how, "task ended unexpectedly; stopping the process");
            let replaces = replaces(state.unasked.as_ref(), &how);
            if replaces {
                state.unasked = Some(UnaskedEnd { task, how });
            }
            replaces
        });
    }

    /// Records that the node was told to stop. It still does its work, but clients should send new
    /// work to other nodes.
    pub fn leave(&self) {
        self.state
            .send_if_modified(|state| !std::mem::replace(&mut state.leaving, true));
    }

    /// Whether the node was told to stop.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.state.borrow().leaving
    }

    /// Records that the shutdown has begun. From now on, tasks may find that others are gone.
    pub fn going_down(&self) {
        self.state
            .send_if_modified(|state| !std::mem::replace(&mut state.going_down, true));
    }

    /// The first unexpected end of a task, if there was one.
    #[must_use]
    pub fn unasked(&self) -> Option<UnaskedEnd> {
        self.state.borrow().unasked.clone()
    }

    /// Waits for the first unexpected end of a task, after which the process must end.
    pub async fn ended(&self) -> UnaskedEnd {
        let mut states = self.state.subscribe();
        loop {
            if let Some(end) = &states.borrow_and_update().unasked {
                return end.clone();
            }
            if states.changed().await.is_err() {
                // Unreachable, because `self` holds the sender. Without an end there is nothing to
                // return.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Returns how a task ended, if that was unexpected. During the shutdown, tasks may find that
/// others are gone.
fn unasked(outcome: Result<Ended, String>, going_down: bool) -> Option<How> {
    match outcome {
        Err(message) => Some(How::Panicked(message)),
        Ok(Ended::Failed(why)) => Some(How::Failed(why)),
        Ok(Ended::GaveUp(why)) if !going_down => Some(How::GaveUp(why)),
        Ok(Ended::GaveUp(_) | Ended::Done) => None,
    }
}

/// Whether an end replaces the `known` one because it is nearer to the cause. A task may give up
/// before the end of the task that it requires is recorded.
fn replaces(known: Option<&UnaskedEnd>, new: &How) -> bool {
    match known.map(|end| &end.how) {
        None => true,
        Some(How::GaveUp(_)) => !matches!(new, How::GaveUp(_)),
        Some(How::Panicked(_) | How::Failed(_)) => false,
    }
}

/// Does the work of a thread and catches its panic.
///
/// # Errors
/// The message of the panic. The caller that waits for the thread must end as well, or report it.
pub fn catch<T>(task: Task, work: impl FnOnce() -> T) -> Result<T, String> {
    let work = || {
        provoke(task);
        work()
    };
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| message_of(&*panic))
}

/// The message of a panic.
fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

/// Does `work`. If a test requires it, panics after the work has begun and is polled again.
async fn provoked<F: Future>(task: Task, work: F) -> F::Output {
    let mut work = pin!(work);
    let mut begun = false;
    poll_fn(|context| {
        if begun {
            provoke(task);
        }
        begun = true;
        work.as_mut().poll(context)
    })
    .await
}

/// Panics if a test requires that for this task.
#[expect(clippy::panic, reason = "requested by a test")]
fn provoke(task: Task) {
    static TOLD: OnceLock<Option<String>> = OnceLock::new();
    if cfg!(debug_assertions) {
        let told = TOLD.get_or_init(|| std::env::var(PANIC_VARIABLE).ok());
        if told.as_deref() == Some(task.name()) {
            panic_any(format!("{PANIC_VARIABLE} names {task}"));
        }
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
