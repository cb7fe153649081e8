//! Where a counter's task runs: on a thread of its own, or on the runtime while items come one at a
//! time.
//!
//! Invariant: the task is in one place at a time, and its end, however it comes, is told. On the
//! runtime it blocks a worker for the commit of one post at most, and never the only one.
//!
//! To wake a sleeping thread takes about as long as half a commit to a fast disk, and with a thread
//! of its own a post alone pays for two such wake-ups: there and back. Posts that come together
//! share them. Hence the two places (docs/adr/0012-a-counter-moves.md).

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::task::{CounterError, CounterTask, Event};
use headcount_log::Deliveries;
use headcount_runtime::supervisor::{self, Task};
use headcount_store::Store;

/// Items that are committed on the runtime at most: those of a post that came alone.
const ALONE_ITEMS_MAX: usize = 1;

/// Posts that have to come alone, one after the other, before the task leaves its thread.
const ALONE_TURNS: u32 = 16;

/// Workers that the runtime must have to lend one.
const WORKERS_MIN: usize = 2;

/// A task for the thread, with what it was told last.
struct Work<S: Store, D: Deliveries> {
    task: CounterTask<S, D>,
    event: Option<Event>,
    done: oneshot::Sender<Result<Option<CounterTask<S, D>>, CounterError>>,
}

/// Runs a counter until its log ends.
///
/// # Errors
/// When its store failed, its log can't go on, or its thread does not start. What was delivered
/// since its last commit is not acknowledged.
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

/// Wakes another worker, if all others sleep: it serves everybody else while this one waits for the
/// disk.
///
/// A worker keeps the task that it was given last to itself, and has others help with what it was
/// given before: so the first of two tasks is one that wakes a helper, who also takes whatever else
/// waits here.
fn wake_another_worker() {
    for _ in 0..2 {
        #[expect(clippy::disallowed_methods, reason = "a waker that does nothing")]
        tokio::spawn(std::future::ready(()));
    }
}

fn comes_alone(event: &Event) -> bool {
    event.items().is_some_and(|items| items <= ALONE_ITEMS_MAX)
}

/// Runs the task here as long as posts come alone; returns what is more than that.
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

/// Runs the task to its end, or until it is to leave.
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
            // It comes by itself, however much there is to do.
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

/// Starts the thread, which gives tasks back if they are to leave it. It ends when its handle is
/// dropped.
fn start_thread<S: Store, D: Deliveries>(
    leaves: bool,
) -> Result<mpsc::Sender<Work<S, D>>, CounterError> {
    let (sender, mut receiver) = mpsc::channel::<Work<S, D>>(1);
    let runtime = Handle::current();
    #[expect(
        clippy::disallowed_methods,
        reason = "its host hears of a panic of the counter's thread"
    )]
    std::thread::Builder::new()
        .name("counter".into())
        .spawn(move || {
            while let Some(work) = receiver.blocking_recv() {
                let together = run_together(work.task, work.event, leaves);
                let outcome = supervisor::catch(Task::CounterThread, || runtime.block_on(together));
                // Whoever does not wait for it any more has nothing to learn.
                let _ = work
                    .done
                    .send(outcome.unwrap_or_else(|why| Err(panicked(&why))));
            }
        })
        .map_err(|error| CounterError::Thread(error.to_string()))?;
    Ok(sender)
}

fn panicked(message: &str) -> CounterError {
    CounterError::Thread(format!("it panicked: {message}"))
}

/// What can't be, since the thread ends after its handle.
fn gone() -> CounterError {
    CounterError::Thread("it is gone".into())
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
