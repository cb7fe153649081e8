//! `remake-queue`: replacing a counter's queue that is beyond repair, such as a quorum queue whose
//! members are lost with their disks.
//!
//! Invariant: nothing is deleted before the loss is marked, and the marker exists when the new
//! queue is declared. A working queue is deleted only on demand.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::time::Instant;

use super::broker_error::BrokerError;
use super::connection::timed;
use super::operator::{OperatorError, connect};
use super::topology::{Broker, Marker};
use super::{AmqpOptions, generation_queue};
use headcount_model::CounterName;

/// How long a queue must be unavailable before it counts as beyond repair: its members may be
/// electing a leader.
const TRY_FOR: Duration = Duration::from_secs(15);
/// The pause between two attempts.
const TRY_PAUSE: Duration = Duration::from_secs(5);

/// A fault of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueFault {
    /// The name of the queue.
    pub queue: String,
    /// The error of the broker.
    pub detail: String,
}

/// The result of [`remake_queue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemakeOutcome {
    /// Nothing was changed.
    Left,
    /// The queues are new and empty, and a marker reports the loss to the counter.
    Remade,
}

/// Replaces those queues of a counter that are beyond repair, or all of them with `force` if none
/// is: deletes them with their content, and declares and binds them again. Before that it declares
/// the marker of the loss, after which the counter is not complete until it has caught up from a
/// complete one.
///
/// `confirm` receives the faults, or none if only `force` is the reason, and returns whether to
/// continue. It runs on a thread that may block.
///
/// # Errors
/// [`OperatorError::Refused`] when nothing is wrong and `force` is not set, when the cluster was
/// never bootstrapped here, or when the counter was removed. [`OperatorError::Broker`] when an
/// operation of the broker fails; if it cannot delete a queue, the text names the command that can.
pub async fn remake_queue(
    options: AmqpOptions,
    name: &CounterName,
    force: bool,
    confirm: impl FnOnce(&[QueueFault]) -> bool + Send + 'static,
) -> Result<RemakeOutcome, OperatorError> {
    let options = Arc::new(options);
    let (link, mut broker) = connect(&options, "remake-queue").await?;
    let refusal = why_not(&mut broker, name).await?;
    link.close().await;
    if let Some(why) = refusal {
        return Err(OperatorError::Refused(why));
    }
    let mut faults = Vec::new();
    for queue in options.queues(name) {
        if let Some(detail) = fault_of(&options, name, &queue).await? {
            faults.push(QueueFault { queue, detail });
        }
    }
    if faults.is_empty() && !force {
        return Err(OperatorError::Refused(format!(
            "nothing is wrong with the queue of counter {name}: it can be consumed. To replace it \
             anyway and lose its content, add --force"
        )));
    }
    let mut beyond_repair: Vec<String> = faults.iter().map(|fault| fault.queue.clone()).collect();
    if beyond_repair.is_empty() {
        beyond_repair = options.queues(name);
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "an operator's command, which waits for it"
    )]
    let agreed = tokio::task::spawn_blocking(move || confirm(&faults)).await;
    if !agreed.unwrap_or(false) {
        return Ok(RemakeOutcome::Left);
    }
    let (link, mut broker) = connect(&options, "remake-queue").await?;
    let made = remake(&mut broker, name, &beyond_repair).await;
    link.close().await;
    made.map(|()| RemakeOutcome::Remade)
}

/// Why the counter has no queue to replace; none if it has one.
async fn why_not(broker: &mut Broker, name: &CounterName) -> Result<Option<String>, BrokerError> {
    if broker.has(&Marker::Removed(name.clone())).await? {
        return Ok(Some(format!(
            "counter {name} was removed from this cluster, and its name cannot be used again"
        )));
    }
    let known = broker.has(&Marker::Founding(name.clone())).await?
        || broker.has(&Marker::Started(name.clone())).await?;
    Ok((!known).then(|| format!("counter {name} never had a queue on this broker")))
}

/// The error of a queue that stays unavailable; none if the queue can be consumed.
async fn fault_of(
    options: &Arc<AmqpOptions>,
    name: &CounterName,
    queue: &str,
) -> Result<Option<String>, OperatorError> {
    let begun = Instant::now();
    loop {
        // An attempt can end the connection, so each has its own.
        let (link, mut broker) = connect(options, "remake-queue").await?;
        let tried = try_to_consume(&mut broker, name, queue).await;
        link.close().await;
        match tried {
            Ok(()) => return Ok(None),
            Err(error) if begun.elapsed() >= TRY_FOR => return Ok(Some(error.to_string())),
            Err(error) => {
                tracing::info!(queue, %error, "consuming the queue failed; retrying");
                tokio::time::sleep(TRY_PAUSE).await;
            }
        }
    }
}

/// Starts a consumer, which requires a majority of a quorum queue's members. Deliveries return to
/// their place when the channel is closed.
async fn try_to_consume(
    broker: &mut Broker,
    name: &CounterName,
    queue: &str,
) -> Result<(), BrokerError> {
    if queue == broker.names.generation(name) {
        // Otherwise its counter would miss the messages that this consumer holds.
        generation_queue::lock(broker, name).await?;
    }
    let channel = broker.fresh_channel().await?;
    timed(channel.basic_qos(1, BasicQosOptions::default())).await?;
    let consuming = channel.basic_consume(
        queue.into(),
        "remake-queue".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let _consumer = timed(consuming).await?;
    timed(channel.close(200, "OK".into())).await
}

async fn remake(
    broker: &mut Broker,
    name: &CounterName,
    queues: &[String],
) -> Result<(), OperatorError> {
    let lost = Marker::Lost(name.clone());
    broker.lock().await?;
    broker.mark(&lost).await?;
    for queue in queues {
        if let Err(error) = broker.delete_queue(queue).await {
            let by_hand = by_hand(&broker.options, queue);
            return Err(OperatorError::Broker(format!("{error}\n{by_hand}")));
        }
    }
    // The counter may have read the first marker in the meantime and taken it for the old queue.
    broker.mark(&lost).await?;
    // The generation queue is not declared here: the counter creates it when it finds it missing.
    broker.declare_queues(name).await?;
    broker.unlock().await?;
    Ok(())
}

/// Names the command that deletes a queue that the broker did not delete over AMQP. The command has
/// no time limit.
fn by_hand(options: &AmqpOptions, queue: &str) -> String {
    let vhost = options.vhost();
    format!(
        "The loss is marked for the counter, but the broker did not delete the queue. On a running \
         node of RabbitMQ, run: rabbitmqctl delete_queue --vhost '{vhost}' {queue}. Then run this \
         command again"
    )
}
