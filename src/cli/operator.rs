//! `remove-counter`, `accept-loss`, `skip-poison`, `remake-queue`: what an operator does when
//! something is gone for good.
//!
//! Invariant: each says what it is about to do, and does it only after a yes.

use std::collections::BTreeMap;
use std::path::Path;

use thiserror::Error;

use super::{AcceptLossOptions, confirm, print};
use crate::client::{ClientError, Loss, LossClient, LossPlan, LossReceipt, LossRequest, NotLost};
use crate::config::{BrokerConfig, read_secret};
use crate::model::{ClusterSecret, CounterName, Epoch};
use crate::node::{self, NodeError};

/// Why an operator's command did not succeed.
#[derive(Debug, Error)]
pub enum OperatorError {
    /// A node's part failed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The coordinator could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An argument is not what it should be.
    #[error("{0}")]
    Argument(String),
}

/// Removes a counter; says whether it did.
///
/// # Errors
/// [`OperatorError`].
pub async fn remove_counter(
    broker: &BrokerConfig,
    name: &CounterName,
    yes: bool,
) -> Result<bool, OperatorError> {
    let what = format!(
        "This deletes the queue of counter {name} for good. The counter can't come back under this name."
    );
    if !confirm(&what, yes) {
        return Ok(false);
    }
    let messages = node::remove_counter(broker, name).await?;
    let _ = print(&format!(
        "Removed counter {name}; {messages} batches waited in its queue.\n"
    ));
    Ok(true)
}

/// Skips a batch that can't be read; says whether it did.
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
            "Found {poison}.\nThis drops it for this counter, which is then not complete until it has caught up \
             from a complete counter. What no counter could read is lost."
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

/// Makes a counter's queue again; says whether it did.
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
            "{found}\nThis deletes the queue of counter {counter} with all that is in it, and makes it again. The counter \
             is then not complete until it has caught up from a complete one. A node of RabbitMQ that can be started again with \
             its disk may still bring the queue back: start it first."
        );
        confirm(&what, yes)
    };
    let remade = node::remake_queue(broker, classic_queues, name, force, ask).await?;
    if remade {
        let _ = print(&format!(
            "Made the queue of counter {name} again. The counter hears of it within ten seconds, and GET /counters shows when it is \
             complete again: wait for that before you make another queue again.\n"
        ));
    }
    Ok(remade)
}

/// Accepts what a coordinator says is lost; says whether it did.
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
            "Nothing is lost that could be accepted.\n{}",
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

/// All that the plan names and that can be accepted.
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

/// One range of the plan, as an operator typed it.
fn one_range(plan: &LossPlan, epoch: &str, range: &str) -> Result<LossRequest, String> {
    let number = u128::from_str_radix(epoch, 16)
        .map_err(|_| format!("{epoch} is no epoch: it must be 32 hexadecimal digits"))?;
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let parse = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| format!("{range} is no range: it must be FROM-TO, such as 4-7"))
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
            "{epoch} {range} is not lost: some counter that answers has it, or nobody knows of it"
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
    let mut text = String::from("This gives up for good:\n");
    for loss in &request.missing {
        text.push_str(&format!(
            "- batches {}-{} of epoch {} (partition {}), which no counter that answers has\n",
            loss.first, loss.last, loss.epoch, loss.partition
        ));
    }
    if !request.counters.is_empty() {
        text.push_str(&format!(
            "- whatever these counters miss beyond that: {}. They are taken for complete with what they hold, but for one \
             that is restarted, or loses again, before it hears of this\n",
            names(request.counters.keys().map(CounterName::as_str))
        ));
    }
    text.push_str(&left_out(plan));
    if !plan.silent.is_empty() {
        text.push_str(&format!(
            "These counters did not answer, and may still have it: {}.\n",
            plan.silent.join(", ")
        ));
    }
    text.push_str("Bring back first every counter and every disk that may still come back.");
    text
}

/// What the plan names and nobody can accept now, in lines of its own.
fn left_out(plan: &LossPlan) -> String {
    let mut text = String::new();
    for of in &plan.not_lost {
        text.push_str(&format!(
            "Not lost yet: batch {} of epoch {} (partition {}), which no counter that answers has: {}.\n",
            of.sequence, of.epoch, of.partition, of.why
        ));
    }
    for of in &plan.incomplete {
        if let Some(why) = &of.not_yet {
            text.push_str(&format!(
                "Not taken for complete yet: {}: {why}.\n",
                of.name
            ));
        }
    }
    let unnamed = plan.incomplete.iter();
    let unnamed = unnamed.filter(|of| of.loss.is_none() && of.not_yet.is_none());
    let unnamed = names(unnamed.map(|of| of.name.as_str()));
    if !unnamed.is_empty() {
        text.push_str(&format!(
            "Not complete, and of a release that does not say which loss that is for: {unnamed}. Upgrade them first, then \
             run this again.\n"
        ));
    }
    text
}

/// What was accepted, and how the counters stand then.
fn told(receipt: &LossReceipt) -> String {
    let mut text = String::from("Accepted.\n");
    for loss in &receipt.accepted.missing {
        text.push_str(&format!(
            "Batches {}-{} of epoch {} are given up.\n",
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
            "Did not answer in time, see /counters: {}.\n",
            receipt.not_heard.join(", ")
        ));
    }
    text.push_str("Counts are exact again once the counters have heard of it.\n");
    text
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "operator_tests.rs"]
mod tests;
