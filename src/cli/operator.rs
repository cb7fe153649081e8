//! `remove-counter`, `accept-loss`, `skip-poison` and `remake-queue`: commands for an operator to
//! resolve permanent failures.
//!
//! Invariant: each command says what it is about to do, and does it only after confirmation.

use std::collections::BTreeMap;
use std::path::Path;

use thiserror::Error;

use super::{AcceptLossOptions, confirm, print};
use crate::client::{ClientError, Loss, LossClient, LossPlan, LossReceipt, LossRequest, NotLost};
use crate::config::{BrokerConfig, read_secret};
use crate::model::{ClusterSecret, CounterName, Epoch};
use crate::node::{self, NodeError};

/// The reason why an operator command failed.
#[derive(Debug, Error)]
pub enum OperatorError {
    /// The operation on the broker or the store failed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The request to the coordinator failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An argument is invalid.
    #[error("{0}")]
    Argument(String),
}

/// Removes a counter. Returns whether it did.
///
/// # Errors
/// [`OperatorError`].
pub async fn remove_counter(
    broker: &BrokerConfig,
    name: &CounterName,
    yes: bool,
) -> Result<bool, OperatorError> {
    let what = format!(
        "This deletes the queue of counter {name} permanently. The counter can't come back \
         under this name: a successor needs a new name."
    );
    if !confirm(&what, yes) {
        return Ok(false);
    }
    let messages = node::remove_counter(broker, name).await?;
    let _ = print(&format!(
        "Removed counter {name}; its queue contained {messages} batches.\n"
    ));
    Ok(true)
}

/// Skips a batch that can't be decoded. Returns whether it did.
///
/// # Errors
/// [`OperatorError`].
pub async fn skip_poison(
    broker: &BrokerConfig,
    name: &CounterName,
    data_dir: &Path,
    yes: bool,
) -> Result<bool, OperatorError> {
    let ask = move |poison: &str| {
        let what = format!(
            "Found {poison}.\nThis removes it from the queue of this counter, which is then not \
             complete until it has caught up from a complete counter. If no counter could decode \
             the batch, its items are lost."
        );
        confirm(&what, yes)
    };
    match node::skip_poison(broker, name, data_dir, ask).await? {
        Some(poison) => {
            let _ = print(&format!("Skipped {poison}.\n"));
            Ok(true)
        }
        None => {
            let _ = print("Nothing was skipped.\n");
            Ok(false)
        }
    }
}

/// Deletes a counter's queue and declares it again. Returns whether it did.
///
/// # Errors
/// [`OperatorError`].
pub async fn remake_queue(
    broker: &BrokerConfig,
    classic_queues: bool,
    name: &CounterName,
    force: bool,
    yes: bool,
) -> Result<bool, OperatorError> {
    let counter = name.clone();
    let ask = move |faults: &[String]| {
        let found = match faults {
            [] => format!("Nothing is wrong with the queue of counter {counter}."),
            faults => format!("Found:\n  {}", faults.join("\n  ")),
        };
        let what = format!(
            "{found}\nThis deletes the queue of counter {counter} with everything in it, and \
             declares it again. The counter is then not complete until it has caught up from a \
             complete counter. A RabbitMQ node that can still be started with its disk may recover \
             the queue: start it first."
        );
        confirm(&what, yes)
    };
    let remade = node::remake_queue(broker, classic_queues, name, force, ask).await?;
    if remade {
        let _ = print(&format!(
            "Deleted the queue of counter {name} and declared it again. The counter notices within \
             ten seconds, and GET /counters shows when it is complete again. Wait for that before \
             you remake another queue.\n"
        ));
    }
    Ok(remade)
}

/// Accepts losses that a coordinator reports. Returns whether it did.
///
/// # Errors
/// [`OperatorError`].
pub async fn accept_loss(options: &AcceptLossOptions) -> Result<bool, OperatorError> {
    let argument = OperatorError::Argument;
    let secret = match &options.cluster_secret_file {
        None => None,
        Some(file) => {
            let fault = |detail: String| argument(format!("cluster-secret-file: {file}: {detail}"));
            let text = read_secret(&file.path).map_err(fault)?;
            let secret = ClusterSecret::new(&text).map_err(|error| fault(error.to_string()))?;
            Some(secret)
        }
    };
    let client = LossClient::new(&options.url, secret.as_ref())?;
    let plan = client.plan().await?;
    let request = match (&options.epoch, &options.range) {
        (Some(epoch), Some(range)) => one_range(&plan, epoch, range).map_err(argument)?,
        _ => everything(&plan),
    };
    if request.missing.is_empty() && request.counters.is_empty() {
        let _ = print(&format!(
            "There are no losses to accept.\n{}",
            left_out(&plan)
        ));
        return Ok(false);
    }
    if !confirm(&explain(&request, &plan), options.yes) {
        return Ok(false);
    }
    let receipt = client.accept(&request).await?;
    let _ = print(&told(&receipt));
    Ok(true)
}

/// Everything in the plan that can be accepted.
fn everything(plan: &LossPlan) -> LossRequest {
    let named = plan.incomplete.iter();
    let named = named.filter_map(|of| Some((CounterName::new(&of.name)?, of.loss?)));
    let counters: BTreeMap<_, _> = named.collect();
    LossRequest {
        missing: plan.missing.clone(),
        complete: !counters.is_empty(),
        counters,
    }
}

/// One range of the plan, as the operator typed it.
fn one_range(plan: &LossPlan, epoch: &str, range: &str) -> Result<LossRequest, String> {
    let number = u128::from_str_radix(epoch, 16)
        .map_err(|_| format!("{epoch} is not an epoch: it must be 32 hexadecimal digits"))?;
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let parse = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| format!("{range} is not a range: it must be FROM-TO, such as 4-7"))
    };
    let (first, last) = (parse(first)?, parse(last)?);
    let planned = |loss: &&Loss| {
        loss.epoch == Epoch(number) && loss.first <= first && last <= loss.last && first <= last
    };
    let Some(loss) = plan.missing.iter().find(planned) else {
        let of_range =
            |of: &&NotLost| of.epoch == Epoch(number) && (first..=last).contains(&of.sequence);
        if let Some(NotLost { sequence, why, .. }) = plan.not_lost.iter().find(of_range) {
            return Err(format!("{epoch} {sequence} is not lost yet: {why}"));
        }
        return Err(format!(
            "{epoch} {range} is not lost: a reachable counter has it, or no counter knows of it"
        ));
    };
    Ok(LossRequest {
        missing: vec![Loss {
            first,
            last,
            ..*loss
        }],
        ..LossRequest::default()
    })
}

fn explain(request: &LossRequest, plan: &LossPlan) -> String {
    let mut text = String::from("This permanently accepts the loss of:\n");
    for loss in &request.missing {
        text.push_str(&format!(
            "- batches {}-{} of epoch {} (partition {}), which no reachable counter has\n",
            loss.first, loss.last, loss.epoch, loss.partition
        ));
    }
    if !request.counters.is_empty() {
        text.push_str(&format!(
            "- all other history that these counters miss: {}. They become complete with what they \
             hold, except for a counter that restarts or loses data again before the acceptance \
             reaches it\n",
            names(request.counters.keys().map(CounterName::as_str))
        ));
    }
    text.push_str(&left_out(plan));
    if !plan.silent.is_empty() {
        text.push_str(&format!(
            "These counters did not answer and may still have the missing batches: {}.\n",
            plan.silent.join(", ")
        ));
    }
    text.push_str("First bring back every counter and every disk that can still come back.");
    text
}

/// The entries of the plan that can't be accepted now, one per line.
fn left_out(plan: &LossPlan) -> String {
    let mut text = String::new();
    for of in &plan.not_lost {
        text.push_str(&format!(
            "Not lost yet: batch {} of epoch {} (partition {}), which no reachable counter has: \
             {}.\n",
            of.sequence, of.epoch, of.partition, of.why
        ));
    }
    for of in &plan.incomplete {
        if let Some(why) = &of.not_yet {
            text.push_str(&format!(
                "Can't be accepted yet: counter {}: {why}.\n",
                of.name
            ));
        }
    }
    let unnamed = plan.incomplete.iter();
    let unnamed = unnamed.filter(|of| of.loss.is_none() && of.not_yet.is_none());
    let unnamed = names(unnamed.map(|of| of.name.as_str()));
    if !unnamed.is_empty() {
        text.push_str(&format!(
            "Not complete, but of a release that does not identify its loss: {unnamed}. Upgrade \
             these counters first, then run the command again.\n"
        ));
    }
    text
}

/// What was accepted, and the state of the counters afterwards.
fn told(receipt: &LossReceipt) -> String {
    let mut text = String::from("Accepted.\n");
    for loss in &receipt.accepted.missing {
        text.push_str(&format!(
            "Batches {}-{} of epoch {} are accepted as lost.\n",
            loss.first, loss.last, loss.epoch
        ));
    }
    if !receipt.now_complete.is_empty() {
        let complete = receipt.now_complete.join(", ");
        text.push_str(&format!("Complete: {complete}.\n"));
    }
    for (name, why) in &receipt.still_incomplete {
        text.push_str(&format!("Not complete: {name}: {why}.\n"));
    }
    if !receipt.not_heard.is_empty() {
        text.push_str(&format!(
            "Did not answer in time (see /counters): {}.\n",
            receipt.not_heard.join(", ")
        ));
    }
    text.push_str("Counts are exact again once the counters have applied the acceptance.\n");
    text
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "operator_tests.rs"]
mod tests;
