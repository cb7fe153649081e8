//! What operator commands do at the broker and to the store of a stopped counter.
//!
//! Invariant: a batch leaves a queue only after the store that will miss it has recorded that.

use std::path::Path;

use super::NodeError;
use super::cluster::options_of;
use super::stores::open_existing;
use crate::config::BrokerConfig;
use crate::log::amqp::{
    self, AmqpOptions, Poison, QueueFault, QueueType, RemakeOutcome, SkipOutcome,
};
use crate::model::CounterName;
use crate::store::Store;

/// Deletes the queues of a counter that will not come back. Returns the number of batches in them.
///
/// # Errors
/// The counter runs, a running node names it, or the broker refuses.
pub async fn remove_counter(broker: &BrokerConfig, name: &CounterName) -> Result<u64, NodeError> {
    Ok(amqp::remove_counter(options_of(broker)?, name).await?)
}

/// Removes a batch that can't be decoded from the head of a stopped counter's queue, if `confirm`
/// agrees. Returns a description of it, or `None` if nothing was removed.
///
/// # Errors
/// The counter runs, its data directory belongs to another counter, or the broker refuses.
pub async fn skip_poison(
    broker: &BrokerConfig,
    name: &CounterName,
    data_dir: &Path,
    confirm: impl FnOnce(&str) -> bool + Send + 'static,
) -> Result<Option<String>, NodeError> {
    // Opened first: it fails if the counter runs, because that counter locks its directory.
    let mut store = open_existing(data_dir, name.as_str())?;
    let told = |poison: &Poison| {
        format!(
            "a message of {} bytes at the head of {}: {}",
            poison.bytes, poison.queue, poison.detail
        )
    };
    let (failed, failure) = std::sync::mpsc::channel();
    let agree = move |poison: &Poison| {
        if !confirm(&told(poison)) {
            return false;
        }
        store.set_complete(false);
        match store.commit().and_then(|()| store.close()) {
            Ok(()) => true,
            Err(error) => {
                let _ = failed.send(error);
                false
            }
        }
    };
    let outcome = amqp::skip_poison(options_of(broker)?, name, agree).await?;
    if let Ok(error) = failure.try_recv() {
        return Err(error.into());
    }
    Ok(match outcome {
        SkipOutcome::Skipped(poison) => Some(told(&poison)),
        SkipOutcome::Left(_) | SkipOutcome::NothingToSkip => None,
    })
}

/// Deletes and declares again the queues of a counter, if `confirm` agrees to it after reading what
/// is wrong with them. Returns whether it did.
///
/// # Errors
/// Nothing is wrong with the queues and `force` is not set, or the broker refuses.
pub async fn remake_queue(
    broker: &BrokerConfig,
    classic_queues: bool,
    name: &CounterName,
    force: bool,
    confirm: impl FnOnce(&[String]) -> bool + Send + 'static,
) -> Result<bool, NodeError> {
    let queue_type = match classic_queues {
        true => QueueType::Classic,
        false => QueueType::Quorum,
    };
    let options = AmqpOptions {
        queue_type,
        ..options_of(broker)?
    };
    let told = |fault: &QueueFault| format!("{}: {}", fault.queue, fault.detail);
    let agree = move |faults: &[QueueFault]| {
        let faults: Vec<String> = faults.iter().map(told).collect();
        confirm(&faults)
    };
    let outcome = amqp::remake_queue(options, name, force, agree).await?;
    Ok(outcome == RemakeOutcome::Remade)
}
