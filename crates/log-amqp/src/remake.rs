//! Making a counter's queue again that is beyond repair: a quorum queue whose members are lost with
//! their disks.
//!
//! Invariant: nothing is deleted before word of the loss is left, and the word is there when the
//! new queue comes; what works is not deleted, unless that is asked for.

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

/// How long a queue must not be had before it counts as beyond repair: its members may just be
/// choosing a leader.
const TRY_FOR: Duration = Duration::from_secs(15);
/// The pause between two tries.
const TRY_PAUSE: Duration = Duration::from_secs(5);

/// What is wrong with a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueFault {
    /// Its name.
    pub queue: String,
    /// What the broker says.
    pub detail: String,
}

/// What became of a request to make a queue again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemakeOutcome {
    /// Nothing was touched.
    Left,
    /// The queues are new and empty, and the counter will hear of that.
    Remade,
}

/// Makes those queues of a counter again that are beyond repair, or all of them with `force` where
/// none is: deletes them with all that is in them, and declares and binds them anew. A marker tells
/// the counter first, which is then not complete until it has caught up from a complete one.
///
/// `confirm` is told what is wrong, nothing where `force` is why it goes on, and says whether to;
/// it runs on a thread that may block.
///
/// # Errors
/// [`OperatorError::Refused`] when nothing is wrong and not `force`, when the cluster was never
/// founded here, or when the counter was removed. [`OperatorError::Broker`] when the broker does
/// not do it; where it can't delete a queue, the text says what can.
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
            "nothing is wrong with the queue of counter {name}: it can be consumed. To make it again all the same, with \
             the loss of what is in it, add --force"
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

/// Why there is no queue of this counter to be made again, if so.
async fn why_not(broker: &mut Broker, name: &CounterName) -> Result<Option<String>, BrokerError> {
    if broker.has(&Marker::Removed(name.clone())).await? {
        return Ok(Some(format!(
            "counter {name} was removed from this cluster and its name is spent"
        )));
    }
    let known = broker.has(&Marker::Founding(name.clone())).await?
        || broker.has(&Marker::Started(name.clone())).await?;
    Ok((!known).then(|| format!("counter {name} never had a queue on this broker")))
}

/// What is wrong with a queue for longer than a moment; none when it gives what is in it.
async fn fault_of(
    options: &Arc<AmqpOptions>,
    name: &CounterName,
    queue: &str,
) -> Result<Option<String>, OperatorError> {
    let begun = Instant::now();
    loop {
        // One try can cost the connection.
        let (link, mut broker) = connect(options, "remake-queue").await?;
        let tried = try_to_consume(&mut broker, name, queue).await;
        link.close().await;
        match tried {
            Ok(()) => return Ok(None),
            Err(error) if begun.elapsed() >= TRY_FOR => return Ok(Some(error.to_string())),
            Err(error) => {
                tracing::info!(queue, %error, "the queue can't be consumed; trying again");
                tokio::time::sleep(TRY_PAUSE).await;
            }
        }
    }
}

/// Becomes a consumer, which a majority of a quorum queue's members must agree to. What is
/// delivered goes back to its place with the channel.
async fn try_to_consume(
    broker: &mut Broker,
    name: &CounterName,
    queue: &str,
) -> Result<(), BrokerError> {
    if queue == broker.names.generation(name) {
        // What is in it is missed while somebody else holds it.
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
    // A counter that has seen the word meanwhile took it for that of the old queue.
    broker.mark(&lost).await?;
    // Not that of the generation: its counter makes it, once it has noticed that the old one is
    // gone.
    broker.declare_queues(name).await?;
    broker.unlock().await?;
    Ok(())
}

/// What deletes a queue that the broker did not delete by AMQP: the same without a limit of time.
fn by_hand(options: &AmqpOptions, queue: &str) -> String {
    let vhost = options.vhost();
    format!(
        "The counter is told that its queue is lost, but the broker did not delete it. On a node of RabbitMQ that runs: \
         rabbitmqctl delete_queue --vhost '{vhost}' {queue}. Then run this again"
    )
}
