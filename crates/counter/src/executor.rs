//! Runs a counter's task on a dedicated thread, or on the runtime while items arrive one at a time.
//!
//! Invariant: the task is in one place at a time, and its end, however caused, is reported. On the
//! runtime it blocks a worker at most for the commit of one post, and never the only worker.
//!
//! Waking a sleeping thread takes about half as long as a commit to a fast disk. With a dedicated
//! thread, a post that arrives alone pays for two wake-ups, to the thread and back; posts that
//! arrive together share them. Hence the two places (docs/adr/0012-a-counter-moves.md).

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::task::{CounterError, CounterTask, Event};
use headcount_log::Deliveries;
use headcount_runtime::supervisor::{self, Task};
use headcount_store::Store;

/// Maximum items per commit on the runtime: those of a post that arrived alone.
const ALONE_ITEMS_MAX: usize = 1;

/// Consecutive posts that must arrive alone before the task leaves its thread.
const ALONE_TURNS: u32 = 16;

/// Minimum workers of a runtime on which the task may block one.
const WORKERS_MIN: usize = 2;

/// A task for the thread, with the event that it must handle first.
struct Work<S: Store, D: Deliveries> {
    task: CounterTask<S, D>,
    event: Option<Event>,
    done: oneshot::Sender<Result<Option<CounterTask<S, D>>, CounterError>>,
}

/// Runs a counter until its log ends.
///
/// # Errors
/// If the store fails, the log can't continue, or the thread does not start. Deliveries since the
/// last commit are not acknowledged.
pub async fn host<S: Store, D: Deliveries>(
    mut task: CounterTask<S, D>,
) -> Result<(), CounterError> {
    let leaves = task.is_waited_for() && Handle::current().metrics().num_workers() >= WORKERS_MIN;
    let thread = start_thread(leaves)?;
    loop {
        let event = match leaves {
            true => Some(run_alone(&mut task).await?),
            false => None,
        };
        let (done, outcome) = oneshot::channel();
        let work = Work { task, event, done };
        thread.send(work).await.map_err(|_| gone())?;
        match outcome.await.map_err(|_| gone())?? {
            Some(back) => task = back,
            None => return Ok(()),
        }
    }
}

/// Wakes another worker if all others sleep: it runs the other tasks while this worker waits for
/// the disk.
///
/// Tokio keeps the newest spawned task in the worker's LIFO slot. The second spawn pushes the first
/// task to the run queue, which wakes an idle worker; that worker also takes the other tasks that
/// are queued here.
fn wake_another_worker() {
    for _ in 0..2 {
        #[expect(
            clippy::disallowed_methods,
            reason = "an empty task that wakes a worker"
        )]
        tokio::spawn(std::future::ready(()));
    }
}

fn comes_alone(event: &Event) -> bool {
    event.items().is_some_and(|items| items <= ALONE_ITEMS_MAX)
}

/// Runs the task on the runtime while posts arrive alone. Returns the first event with more than
/// that.
async fn run_alone<S: Store, D: Deliveries>(
    task: &mut CounterTask<S, D>,
) -> Result<Event, CounterError> {
    loop {
        let event = task.next().await;
        if comes_alone(&event) {
            wake_another_worker();
        } else if !matches!(event, Event::CheckDue) {
            return Ok(event);
        }
        task.handle(event).await?;
    }
}

/// Runs the task on the thread to its end, or until it should move to the runtime.
async fn run_together<S: Store, D: Deliveries>(
    mut task: CounterTask<S, D>,
    mut event: Option<Event>,
    leaves: bool,
) -> Result<Option<CounterTask<S, D>>, CounterError> {
    let mut alone = 0;
    loop {
        let next = match event.take() {
            Some(event) => event,
            None => task.next().await,
        };
        match &next {
            event if comes_alone(event) => alone += 1,
            // The periodic check says nothing about the load.
            Event::CheckDue => {}
            _ => alone = 0,
        }
        if !task.handle(next).await? {
            task.close()?;
            return Ok(None);
        }
        if leaves && alone >= ALONE_TURNS {
            return Ok(Some(task));
        }
    }
}

/// Starts the thread. It returns tasks that should move to the runtime, and ends when its handle is
/// dropped.
fn start_thread<S: Store, D: Deliveries>(
    leaves: bool,
) -> Result<mpsc::Sender<Work<S, D>>, CounterError> {
    let (sender, mut receiver) = mpsc::channel::<Work<S, D>>(1);
    let runtime = Handle::current();
    #[expect(
        clippy::disallowed_methods,
        reason = "a panic of the counter's thread is reported to its host"
    )]
    std::thread::Builder::new()
        .name("counter".into())
        .spawn(move || {
            while let Some(work) = receiver.blocking_recv() {
                let together = run_together(work.task, work.event, leaves);
                let outcome = supervisor::catch(Task::CounterThread, || runtime.block_on(together));
                // The host may be gone; then the outcome is not needed.
                let _ = work
                    .done
                    .send(outcome.unwrap_or_else(|why| Err(panicked(&why))));
            }
        })
        .map_err(|error| CounterError::Thread(error.to_string()))?;
    Ok(sender)
}

fn panicked(message: &str) -> CounterError {
    CounterError::Thread(format!("panic: {message}"))
}

/// The error for a case that can't occur, since the thread outlives its handle.
fn gone() -> CounterError {
    CounterError::Thread("it ended unexpectedly".into())
}

#[cfg(test)]
#[path = "executor_tests.rs"]
mod tests;
