//! Operations that only an operator starts: removing a counter, and skipping a batch that does not
//! decode.
//!
//! Invariant: each operation checks first, and destroys nothing that is still needed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use thiserror::Error;

use super::broker_error::BrokerError;
use super::connection::{Dialer, Link, timed};
use super::elsewhere::{self, Knows};
use super::topology::{Broker, Marker};
use super::{AmqpOptions, Nodes, Presence, Role};
use headcount_log::wire;
use headcount_model::{CounterName, Partition};

/// Why nothing is done on a broker that does not carry the cluster.
const NOT_FOUNDED: &str = "no cluster was bootstrapped on this virtual host; check that it is the \
                           right one. A coordinator declares the first queues when it starts";

/// The number of announcement intervals to listen before silence counts.
const LISTEN_INTERVALS: u32 = 3;

/// How long to wait for a delivery before the queue counts as empty.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(3);
/// The least number of deliveries to check. Those that a consumer held come first, in any order.
const HELD_MIN: u16 = 128;

/// Why an operator's command did nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OperatorError {
    /// The broker cannot be reached, or an operation failed.
    #[error("broker operation failed: {0}")]
    Broker(String),
    /// It would do harm.
    #[error("{0}")]
    Refused(String),
}

impl From<BrokerError> for OperatorError {
    fn from(error: BrokerError) -> Self {
        Self::Broker(error.to_string())
    }
}

/// Connects to a host that carries the cluster, with at most one attempt for each host. Operations
/// on a broker node that lost its disk, and has not joined the others again, would have no effect.
pub(super) async fn connect(
    options: &Arc<AmqpOptions>,
    purpose: &str,
) -> Result<(Link, Broker), OperatorError> {
    let mut dialer = Dialer::new(Arc::clone(options), purpose);
    let mut imported = None;
    let mut last = OperatorError::Broker("no broker address is configured".to_owned());
    for _ in 0..options.urls.len() {
        let link = match dialer.dial_once().await {
            Ok(link) => link,
            Err((url, error)) => {
                last = OperatorError::Broker(format!("{url}: {error}"));
                continue;
            }
        };
        let mut broker = Broker::new(Arc::clone(options), &link);
        match elsewhere::knows(&mut broker).await {
            Ok(Knows::Cluster) => return Ok((link, broker)),
            Ok(Knows::Markers) => imported = imported.or(Some((link, broker))),
            Ok(Knows::Nothing) => last = OperatorError::Refused(NOT_FOUNDED.to_owned()),
            Err(error) => last = error.into(),
        }
    }
    imported.ok_or(last)
}

/// Ready messages in each counter's queues; none if a queue is missing.
///
/// # Errors
/// When the broker cannot be reached.
pub async fn depths(
    options: AmqpOptions,
    counters: &[CounterName],
) -> Result<Vec<(CounterName, Option<u64>)>, OperatorError> {
    let (link, mut broker) = connect(&Arc::new(options), "depths").await?;
    let mut depths = Vec::with_capacity(counters.len());
    for counter in counters {
        depths.push((counter.clone(), broker.depth(counter).await?));
    }
    link.close().await;
    Ok(depths)
}

/// Removes a dead counter permanently: deletes its queues, which would otherwise grow, and marks
/// its name as removed. Returns the number of messages in its queues.
///
/// # Errors
/// [`OperatorError::Refused`] while the counter runs, or while the settings of a node name it.
pub async fn remove_counter(
    options: AmqpOptions,
    name: &CounterName,
) -> Result<u64, OperatorError> {
    let options = Arc::new(options);
    let presence = Presence::listen_only(Arc::clone(&options));
    let (link, mut broker) = connect(&options, "remove-counter").await?;
    let removed = remove(&options, &mut broker, &presence, name).await;
    link.close().await;
    removed
}

async fn remove(
    options: &AmqpOptions,
    broker: &mut Broker,
    presence: &Presence,
    name: &CounterName,
) -> Result<u64, OperatorError> {
    presence.listening().await;
    tokio::time::sleep(options.presence_interval * LISTEN_INTERVALS).await;
    if let Some(end) = options.supervisor.unasked() {
        // Without a listener, silence proves nothing.
        return Err(OperatorError::Broker(end.to_string()));
    }
    if let Some(why) = why_needed(&presence.nodes().borrow(), name) {
        return Err(OperatorError::Refused(why));
    }
    // Otherwise a coordinator that has already checked the queue could declare it again.
    broker.lock().await?;
    // Before the queues are deleted: coordinators ignore the counter from here on.
    broker.mark(&Marker::Removed(name.clone())).await?;
    let messages = broker.delete_queues(name).await?;
    broker.unlock().await?;
    Ok(messages)
}

/// Why a counter can't be removed; none if it can.
fn why_needed(nodes: &Nodes, name: &CounterName) -> Option<String> {
    for (node, sighting) in nodes {
        let announcement = &sighting.announcement;
        if announcement.role == Role::Counter && announcement.name == name.as_str() {
            return Some(format!(
                "counter {name} is running ({}): stop it first",
                announcement.url
            ));
        }
        if announcement
            .named
            .iter()
            .any(|named| named == name.as_str())
        {
            return Some(format!(
                "the settings of {} ({node}) name counter {name}: remove it from them and restart \
                 that node first",
                announcement.name
            ));
        }
    }
    None
}

/// A delivery that does not decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    /// The name of its queue.
    pub queue: String,
    /// Why it does not decode.
    pub detail: String,
    /// Its size in bytes.
    pub bytes: usize,
}

/// The result of [`skip_poison`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SkipOutcome {
    /// Every delivery that the counter may have held decodes: nothing was changed.
    NothingToSkip,
    /// The delivery was left in its queue.
    Left(Poison),
    /// The delivery was removed.
    Skipped(Poison),
}

/// Searches the head of the queues of a stopped counter for a delivery that does not decode, and
/// acknowledges it if `confirm` agrees. `confirm` runs on a thread that may block. It must first
/// make the counter's store commit that it is not complete, because the counter loses the content
/// of the delivery.
///
/// # Errors
/// [`OperatorError::Refused`] while the counter runs.
pub async fn skip_poison(
    options: AmqpOptions,
    name: &CounterName,
    confirm: impl FnOnce(&Poison) -> bool + Send + 'static,
) -> Result<SkipOutcome, OperatorError> {
    let options = Arc::new(options);
    let (link, mut broker) = connect(&options, "skip-poison").await?;
    let mut outcome = Ok(SkipOutcome::NothingToSkip);
    for partition in options.partitioning.all() {
        match first_poison(&mut broker, partition, name).await {
            Ok(Some(held)) => {
                outcome = skip(held, confirm).await;
                break;
            }
            Ok(None) => {}
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    // Deliveries that were not acknowledged return to their place.
    link.close().await;
    outcome
}

/// A delivery that does not decode. It stays in the queue until it is acknowledged.
struct HeldPoison {
    poison: Poison,
    delivery: Delivery,
    /// If dropped, they would return the delivery, and it could not be acknowledged.
    _consuming: (Channel, Consumer),
}

/// The first delivery of a queue that does not decode, among those that a counter may have held.
async fn first_poison(
    broker: &mut Broker,
    partition: Partition,
    name: &CounterName,
) -> Result<Option<HeldPoison>, OperatorError> {
    let queue = broker.names.queue(partition, name);
    if broker.consumers(&queue).await? > 0 {
        let why = format!("counter {name} is running: stop it first");
        return Err(OperatorError::Refused(why));
    }
    let channel = broker.fresh_channel().await?;
    let held_max = broker.options.prefetch.saturating_mul(2).max(HELD_MIN);
    timed(channel.basic_qos(held_max, BasicQosOptions::default())).await?;
    let tag = format!("skip-poison-{name}");
    let options = BasicConsumeOptions::default();
    let consuming = channel.basic_consume(
        queue.as_str().into(),
        tag.into(),
        options,
        FieldTable::default(),
    );
    let mut consumer = timed(consuming).await?;
    for _ in 0..held_max {
        let delivery = match tokio::time::timeout(DELIVERY_TIMEOUT, consumer.next()).await {
            Err(_) | Ok(None) => break,
            Ok(Some(Err(error))) => return Err(BrokerError::from(error).into()),
            Ok(Some(Ok(delivery))) => delivery,
        };
        if let Err(error) = wire::decode_of(partition, &delivery.data) {
            let poison = Poison {
                queue,
                detail: error.to_string(),
                bytes: delivery.data.len(),
            };
            return Ok(Some(HeldPoison {
                poison,
                delivery,
                _consuming: (channel, consumer),
            }));
        }
    }
    Ok(None)
}

async fn skip(
    held: HeldPoison,
    confirm: impl FnOnce(&Poison) -> bool + Send + 'static,
) -> Result<SkipOutcome, OperatorError> {
    let asked = held.poison.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "an operator's command, which waits for it"
    )]
    let agreed = tokio::task::spawn_blocking(move || confirm(&asked)).await;
    if !agreed.unwrap_or(false) {
        return Ok(SkipOutcome::Left(held.poison));
    }
    match timed(held.delivery.acker.ack(BasicAckOptions::default())).await? {
        true => Ok(SkipOutcome::Skipped(held.poison)),
        false => Err(OperatorError::Broker(
            "the connection was lost before the acknowledgement; run the command again".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::{Announcement, Sighting};
    use super::*;

    fn node(role: Role, name: &str, named: &[&str]) -> Sighting {
        Sighting {
            announcement: Announcement {
                role,
                name: name.to_owned(),
                named: named.iter().map(ToString::to_string).collect(),
                ..Announcement::default()
            },
            seen_at: Instant::now(),
        }
    }

    #[test]
    fn a_counter_that_runs_or_is_named_is_not_removed() {
        let name = CounterName::new("c2").expect("valid");
        let mut nodes = Nodes::default();
        nodes.insert("1".to_owned(), node(Role::Counter, "c1", &[]));
        nodes.insert("2".to_owned(), node(Role::Coordinator, "c2", &["c1"]));
        assert_eq!(why_needed(&nodes, &name), None);
        nodes.insert("3".to_owned(), node(Role::Coordinator, "k", &["c1", "c2"]));
        assert!(why_needed(&nodes, &name).is_some_and(|why| why.contains("settings of k")));
        nodes.remove("3");
        nodes.insert("4".to_owned(), node(Role::Counter, "c2", &[]));
        assert!(why_needed(&nodes, &name).is_some_and(|why| why.contains("stop it first")));
    }
}
