//! Watches over the tasks that a node can't do without. One that ends although nobody asked it to
//! ends the process: going on without it would be a node that looks well and does not do its work.
//!
//! Invariant: such an end is logged before it is told, is told to whoever looks from then on, and
//! is never taken back.
//!
//! Everything that runs for as long as its node does is started here, or, where it blocks on a
//! thread of its own, goes through [`catch`]; `tests/tidy` refuses other spawns, and lists those
//! that are meant.

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

/// Names a task that is to panic, so that a test sees what comes of it. Read by debug builds only.
const PANIC_VARIABLE: &str = "HEADCOUNT_TEST_PANIC";

macro_rules! tasks {
    ($($(#[$doc:meta])+ $task:ident = $name:literal,)+) => {
        /// What is watched.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Task {
            $($(#[$doc])+ $task,)+
        }

        impl Task {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$task),+];

            /// What it is called in logs.
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
    /// Hears the signals that stop the process.
    Signals = "signals",
    /// Tidies metrics that gather.
    MetricsUpkeep = "metrics-upkeep",
    /// Applies deliveries and commits them.
    Counter = "counter",
    /// The thread that the counter runs on when it does not run on the runtime.
    CounterThread = "counter-thread",
    /// The thread that writes full tables of the store.
    StoreFlush = "store-flush",
    /// The thread that merges the store's runs.
    StoreMerge = "store-merge",
    /// Gathers posts to batches and appends them.
    Batcher = "batcher",
    /// Appends barriers.
    Barriers = "barriers",
    /// Learns what was acknowledged before this life of the coordinator.
    StartRead = "start-read",
    /// Looks for clones, and for requirements that nobody can meet.
    Tending = "tending",
    /// Takes in which other nodes are there.
    Members = "members",
    /// Looks for nodes that can't go together with this one.
    Strangers = "strangers",
    /// Takes in how the log is.
    LogState = "log-state",
    /// Asks where the broker keeps the counters' queues.
    BrokerWatch = "broker-watch",
    /// Asks one counter elsewhere for counts.
    AskingLane = "asking-lane",
    /// Announces this node.
    Announcer = "announcer",
    /// Hears which other nodes there are.
    Listener = "listener",
    /// Publishes the batches of one partition.
    PublisherLane = "publisher-lane",
    /// Keeps the connection for publishing.
    PublisherLink = "publisher-link",
    /// Declares what publishing needs, and watches the queues.
    PublisherControl = "publisher-control",
    /// Consumes a counter's queues.
    Session = "session",
    /// Acknowledges what a counter has committed.
    Acknowledger = "acknowledger",
    /// Keeps a counter whole.
    Healer = "healer",
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a task says that it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Its work is done: it was asked to end, or whoever it works for is gone, or has heard why it
    /// can't go on.
    Done,
    /// Somebody that it can't work without is gone.
    GaveUp(String),
    /// It can't go on, by what happened to itself.
    Failed(String),
}

impl From<Infallible> for Ended {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// How a task ended although nobody had asked it to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum How {
    /// It panicked with this message.
    #[error("panicked: {0}")]
    Panicked(String),
    /// It could not go on.
    #[error("failed: {0}")]
    Failed(String),
    /// It could not go on without another one that was gone.
    #[error("gave up: {0}")]
    GaveUp(String),
}

/// The end of a task that nobody had asked to end. The process must end; a restart recovers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the task {task} {how}")]
pub struct UnaskedEnd {
    /// Which task.
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

/// Starts tasks and tells of those that ended unasked; cheap to clone, one for each node.
#[derive(Debug, Clone, Default)]
pub struct Supervisor {
    state: watch::Sender<State>,
}

impl Supervisor {
    /// Starts a task that works for as long as its node does. To abort it asks it to end. Must be
    /// called on a Tokio runtime.
    pub fn spawn<F>(&self, task: Task, work: F) -> JoinHandle<()>
    where
        F: Future<Output: Into<Ended>> + Send + 'static,
    {
        let supervisor = self.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "it is the supervisor that watches"
        )]
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
            tracing::error!(
                %task,
                %how,
                "a task ended that nobody had asked to end; the process stops"
            );
            let replaces = replaces(state.unasked.as_ref(), &how);
            if replaces {
                state.unasked = Some(UnaskedEnd { task, how });
            }
            replaces
        });
    }

    /// Notes that the node was told to stop: it does its work still, and whoever sends it some is
    /// to send it elsewhere.
    pub fn leave(&self) {
        self.state
            .send_if_modified(|state| !std::mem::replace(&mut state.leaving, true));
    }

    /// Whether the node was told to stop.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.state.borrow().leaving
    }

    /// Notes that the node goes down: from now on tasks may find that others are gone.
    pub fn going_down(&self) {
        self.state
            .send_if_modified(|state| !std::mem::replace(&mut state.going_down, true));
    }

    /// The end that nobody asked for, if there was one.
    #[must_use]
    pub fn unasked(&self) -> Option<UnaskedEnd> {
        self.state.borrow().unasked.clone()
    }

    /// Resolves once a task has ended unasked: the process has to end.
    pub async fn ended(&self) -> UnaskedEnd {
        let mut states = self.state.subscribe();
        loop {
            if let Some(end) = &states.borrow_and_update().unasked {
                return end.clone();
            }
            if states.changed().await.is_err() {
                // The sender is ours, so this can't be; without an end there is nothing to resolve
                // with.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// How a task ended, if nobody had asked it to. When the node goes down, tasks find that others are
/// gone.
fn unasked(outcome: Result<Ended, String>, going_down: bool) -> Option<How> {
    match outcome {
        Err(message) => Some(How::Panicked(message)),
        Ok(Ended::Failed(why)) => Some(How::Failed(why)),
        Ok(Ended::GaveUp(why)) if !going_down => Some(How::GaveUp(why)),
        Ok(Ended::GaveUp(_) | Ended::Done) => None,
    }
}

/// Whether an end is nearer to the cause than the one that is known. Who can't work without a task
/// may give up before that task's own end has come through.
fn replaces(known: Option<&UnaskedEnd>, new: &How) -> bool {
    match known.map(|end| &end.how) {
        None => true,
        Some(How::GaveUp(_)) => !matches!(new, How::GaveUp(_)),
        Some(How::Panicked(_) | How::Failed(_)) => false,
    }
}

/// Does the work of a thread of its own.
///
/// # Errors
/// The message of the panic, when it panics: whoever waits for the thread has to end as well, or be
/// told.
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
    text.unwrap_or("it left no message").to_owned()
}

/// The same work, which a test may have told to panic once it has begun and is woken to go on.
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

/// Panics if a test has told this task to.
#[expect(clippy::panic, reason = "a test asks for it")]
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
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn gave_up() -> Ended {
        Ended::GaveUp("the log ended".into())
    }

    #[test]
    fn only_what_nobody_asked_for_is_fatal() {
        for going_down in [false, true] {
            assert_eq!(unasked(Ok(Ended::Done), going_down), None);
            let panicked = unasked(Err("oh".into()), going_down);
            assert_eq!(panicked, Some(How::Panicked("oh".into())));
            let failed = unasked(Ok(Ended::Failed("disk".into())), going_down);
            assert_eq!(failed, Some(How::Failed("disk".into())));
        }
        let how = How::GaveUp("the log ended".into());
        assert_eq!(unasked(Ok(gave_up()), false), Some(how));
        assert_eq!(unasked(Ok(gave_up()), true), None);
    }

    #[test]
    fn the_first_end_stays_unless_it_only_followed_another() {
        let causes = [How::Panicked("oh".into()), How::Failed("disk".into())];
        let follows = How::GaveUp("gone".into());
        let end = |how: &How| UnaskedEnd {
            task: Task::Batcher,
            how: how.clone(),
        };
        assert!(replaces(None, &follows));
        assert!(!replaces(Some(&end(&follows)), &follows));
        for cause in &causes {
            assert!(replaces(None, cause));
            assert!(replaces(Some(&end(&follows)), cause));
            assert!(!replaces(Some(&end(cause)), &follows));
            assert!(
                causes
                    .iter()
                    .all(|other| !replaces(Some(&end(cause)), other))
            );
        }
    }

    #[test]
    fn each_task_has_a_name_of_its_own() {
        let names: HashSet<&str> = Task::ALL.iter().map(|task| task.name()).collect();
        assert_eq!(names.len(), Task::ALL.len());
    }

    #[tokio::test]
    async fn a_panic_is_told_with_its_message() {
        let supervisor = Supervisor::default();
        let done = supervisor.spawn(Task::Members, async { Ended::Done });
        done.await.expect("joined");
        assert_eq!(supervisor.unasked(), None);
        let panicking = async {
            let zero = std::hint::black_box(0);
            assert_eq!(zero, 1, "no {zero} today");
            Ended::Done
        };
        let _running = supervisor.spawn(Task::Healer, panicking);
        let end = tokio::time::timeout(LONG, supervisor.ended()).await;
        let text = end.expect("told").to_string();
        assert!(text.starts_with("the task healer panicked: "), "{text}");
        assert!(text.contains("no 0 today"), "{text}");
    }

    #[tokio::test]
    async fn who_is_aborted_was_asked_to_end() {
        let supervisor = Supervisor::default();
        let task = supervisor.spawn(Task::Listener, std::future::pending::<Infallible>());
        task.abort();
        assert!(task.await.expect_err("aborted").is_cancelled());
        assert_eq!(supervisor.unasked(), None);
    }

    #[tokio::test]
    async fn giving_up_is_no_fault_once_the_node_goes_down() {
        let supervisor = Supervisor::default();
        supervisor.going_down();
        let task = supervisor.spawn(Task::Batcher, async { gave_up() });
        task.await.expect("joined");
        assert_eq!(supervisor.unasked(), None);
        let task = supervisor.spawn(Task::Batcher, async { panic_any("oh") as Infallible });
        task.await.expect("joined");
        assert!(supervisor.unasked().is_some());
    }

    #[test]
    fn a_thread_that_panics_leaves_its_message() {
        assert_eq!(catch(Task::StoreFlush, || 7), Ok(7));
        let left = catch(Task::StoreFlush, || -> u8 { panic_any("oh") });
        assert_eq!(left, Err("oh".to_owned()));
        let other = catch(Task::StoreFlush, || -> u8 { panic_any(7_u8) });
        assert_eq!(other, Err("it left no message".to_owned()));
    }
}
