//! What an operator's commands do at the broker and to a stopped counter's store.
//!
//! Invariant: nothing leaves a queue before the store that misses it remembers so.

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

/// Deletes the queues of a counter that will not come back; returns how many batches they held.
///
/// # Errors
/// When the counter runs or is named by a running node, or the broker does not do it.
pub async fn remove_counter(broker: &BrokerConfig, name: &CounterName) -> Result<u64, NodeError> {
    Ok(amqp::remove_counter(options_of(broker)?, name).await?)
}

/// Takes a batch that can't be read from the head of a stopped counter's queue, when `confirm` says
/// so; returns what it was, or none.
///
/// # Errors
/// When the counter runs, its folder is another's, or the broker does not do it.
pub async fn skip_poison(
    broker: &BrokerConfig,
    name: &CounterName,
    data_dir: &Path,
    confirm: impl FnOnce(&str) -> bool + Send + 'static,
) -> Result<Option<String>, NodeError> {
    // Opened first: a counter that runs holds its folder.
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

/// Makes the queues of a counter again when `confirm`, told what is wrong with them, says so;
/// returns whether it did.
///
/// # Errors
/// When nothing is wrong and not `force`, or the broker does not do it.
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
