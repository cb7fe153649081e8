//! What an operator is shown, and signs, when something is lost for good.
//!
//! Invariant: a request names what is accepted; nothing else is given up with it.

use serde::{Deserialize, Serialize};

use super::wire::{self, derived_message};
use super::{ExchangeError, Message};
use crate::model::{Epoch, Sequence};

/// Sequences of one epoch and partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The partition's number.
    pub partition: u16,
    /// The coordinator's life that gave the sequences out.
    #[serde(with = "wire::epoch")]
    pub epoch: Epoch,
    /// The first sequence.
    pub first: Sequence,
    /// The last sequence.
    pub last: Sequence,
}

/// What would be accepted now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossPlan {
    /// Sequences that no counter that can be reached holds.
    pub missing: Vec<Loss>,
    /// Counters that are not sure to have everything.
    pub incomplete: Vec<String>,
    /// Counters that did not answer: what is missing may still be with them.
    #[serde(default)]
    pub silent: Vec<String>,
}

/// What an operator accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossRequest {
    /// Sequences to go on without, as the plan named them.
    pub missing: Vec<Loss>,
    /// Whether counters that are not complete shall be taken for complete, with what they hold.
    pub complete: bool,
}

derived_message!(LossPlan, LossRequest);
