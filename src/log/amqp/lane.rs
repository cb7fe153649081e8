//! One partition's way to the broker: a batch at a time, again and again until it is confirmed.
//!
//! Invariant: only a clean acknowledgement is success: a message that no queue took is acknowledged as well, but
//! returned first. An attempt that failed is repeated on a fresh channel, so no late answer is taken for another's.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{mpsc, oneshot};

use super::connection::{BrokerError, Missing, timed, wait_before};
use super::publisher::{Append, Publishing};
use super::topology::Names;
use crate::log::{AppendError, wire};
use crate::model::{Batch, Partition};
use crate::telemetry;

/// AMQP's mark of a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;
/// Confirms that may be lost in a row before the connection is given up with the channel.
const CONFIRMS_LOST_MAX: u32 = 2;
/// Refusals that no repetition cures: too large (311), and what breaks a limit of the broker (406).
const PERMANENT: [u16; 2] = [311, 406];
/// The longest wait for a new declaration before the batch is tried anyway.
const DECLARATION_TIMEOUT: Duration = Duration::from_secs(30);

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Acknowledged and not returned.
    Confirmed,
    /// No queue took it.
    Returned,
    /// The broker could not keep it.
    Nacked,
    /// The channel gives no confirms.
    NotRequested,
    /// Neither yes nor no in time.
    TimedOut,
    /// The broker closed the channel, or the connection was lost: the reply code, if any, what it says, and
    /// whether it says that the exchange is not there.
    Failed {
        code: Option<u16>,
        missing: bool,
        detail: String,
    },
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The batch is in every bound queue.
    Durable,
    /// The same batch again, on a fresh channel.
    FreshChannel,
    /// The same batch again, on another connection.
    FreshConnection,
    /// The same batch again, once everything is declared again.
    DeclareAgain,
    /// The batch can never be appended.
    Refused(String),
}

/// What came before in the life of one batch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct History {
    pub confirms_lost: u32,
    pub declared_again: bool,
}

/// Judges how an attempt ended.
pub(super) fn judge(outcome: &Outcome, is_coordinator: bool, history: History) -> Verdict {
    match outcome {
        Outcome::Confirmed => Verdict::Durable,
        Outcome::Returned if is_coordinator => Verdict::DeclareAgain,
        Outcome::Returned | Outcome::Nacked | Outcome::NotRequested => Verdict::FreshChannel,
        Outcome::TimedOut if history.confirms_lost + 1 >= CONFIRMS_LOST_MAX => {
            Verdict::FreshConnection
        }
        Outcome::TimedOut => Verdict::FreshChannel,
        Outcome::Failed {
            missing: true,
            detail,
            ..
        } if is_coordinator => {
            if history.declared_again {
                Verdict::Refused(detail.clone())
            } else {
                Verdict::DeclareAgain
            }
        }
        Outcome::Failed {
            code: Some(code),
            detail,
            ..
        } if PERMANENT.contains(code) => Verdict::Refused(detail.clone()),
        Outcome::Failed { .. } => Verdict::FreshChannel,
    }
}

/// The task's own state.
pub(super) struct Lane {
    publishing: Arc<Publishing>,
    exchange: ShortString,
    channel: Option<Channel>,
}

impl Lane {
    pub fn new(publishing: Arc<Publishing>, partition: Partition) -> Self {
        let exchange = Names::new(&publishing.options).items(partition).into();
        Self {
            publishing,
            exchange,
            channel: None,
        }
    }
}

/// Publishes one batch after the other until nobody can append any more.
pub(super) async fn run(mut lane: Lane, mut appends: mpsc::Receiver<Append>) {
    let mut status = lane.publishing.status.subscribe();
    while let Some(Append { batch, done }) = appends.recv().await {
        let result = tokio::select! {
            biased;
            result = publish(&mut lane, &batch) => result,
            refused = status.wait_for(|status| status.fatal.is_some()) => {
                let why = refused.ok().and_then(|status| status.fatal.clone());
                Err(AppendError::Refused(why.unwrap_or_default()))
            }
        };
        // An appender that no longer waits has nothing to learn.
        let _ = done.send(result);
    }
}

async fn publish(lane: &mut Lane, batch: &Batch) -> Result<(), AppendError> {
    let bytes = wire::encode(batch);
    let mut history = History::default();
    let mut failures = 0;
    loop {
        let channel = lane.channel().await;
        let outcome = lane.attempt(&channel, &bytes).await;
        let verdict = judge(&outcome, lane.publishing.is_coordinator, history);
        if verdict == Verdict::Durable {
            return Ok(());
        }
        lane.channel = None;
        tracing::warn!(?outcome, ?verdict, id = ?batch.id(), "a batch is not confirmed");
        note(&outcome, &mut history);
        match verdict {
            Verdict::Durable => return Ok(()),
            Verdict::FreshChannel => {}
            Verdict::FreshConnection => {
                history.confirms_lost = 0;
                lane.publishing.reconnect.notify_one();
            }
            Verdict::DeclareAgain => {
                history.declared_again |= lane.declare_again().await;
            }
            Verdict::Refused(why) => return Err(AppendError::Refused(why)),
        }
        failures += 1;
        telemetry::count(telemetry::PUBLISHES_RETRIED, 1);
        wait_before(failures).await;
    }
}

fn note(outcome: &Outcome, history: &mut History) {
    match outcome {
        Outcome::TimedOut => {
            history.confirms_lost += 1;
            telemetry::count(telemetry::CONFIRMS_LOST, 1);
        }
        Outcome::Returned => telemetry::count(telemetry::PUBLISHES_RETURNED, 1),
        _ => {}
    }
}

impl Lane {
    /// A channel that confirms, once everything is declared and a connection is open.
    async fn channel(&mut self) -> Channel {
        let mut failures = 0;
        loop {
            if let Some(channel) = self.channel.as_ref().filter(|it| it.status().connected()) {
                return channel.clone();
            }
            wait_before(failures).await;
            failures += 1;
            match self.open().await {
                Ok(channel) => self.channel = Some(channel),
                Err(error) => {
                    tracing::warn!(%error, "no channel for publishing");
                    // A blocked broker opens none, and would on no other connection either.
                    if !self.publishing.is_blocked() {
                        self.publishing.reconnect.notify_one();
                    }
                }
            }
        }
    }

    async fn open(&self) -> Result<Channel, BrokerError> {
        // The senders live as long as the lanes.
        let _ = self
            .publishing
            .declared
            .subscribe()
            .wait_for(|it| *it)
            .await;
        let mut connection = self.publishing.connection.clone();
        let connected = connection.wait_for(Option::is_some).await;
        let connected = connected.ok().and_then(|connected| connected.clone());
        let Some(connection) = connected else {
            // Whoever connects is gone, and soon this lane.
            return std::future::pending().await;
        };
        let opened = async {
            let channel = timed(connection.create_channel()).await?;
            timed(channel.confirm_select(ConfirmSelectOptions::default())).await?;
            Ok(channel)
        };
        let wait = self.publishing.options.confirm_timeout;
        let opened = tokio::time::timeout(wait, opened).await;
        opened.unwrap_or(Err(BrokerError::Timeout(wait)))
    }

    async fn attempt(&self, channel: &Channel, bytes: &[u8]) -> Outcome {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let exchange = self.exchange.clone();
        let confirmed = async {
            let published =
                channel.basic_publish(exchange, ShortString::default(), options, bytes, properties);
            published.await?.await
        };
        let mut confirmed = std::pin::pin!(confirmed);
        loop {
            let was_blocked = self.publishing.is_blocked();
            let wait = self.publishing.options.confirm_timeout;
            match tokio::time::timeout(wait, &mut confirmed).await {
                Ok(confirmation) => return outcome(confirmation),
                // A blocked broker has not even read it: once more would only be one more to read.
                Err(_) if was_blocked || self.publishing.is_blocked() => {}
                Err(_) => return Outcome::TimedOut,
            }
        }
    }

    /// Has everything declared again; whether it was.
    async fn declare_again(&self) -> bool {
        let (done, declared) = oneshot::channel();
        if self.publishing.declare_again.send(done).await.is_err() {
            return false;
        }
        let declared = tokio::time::timeout(DECLARATION_TIMEOUT, declared).await;
        matches!(declared, Ok(Ok(())))
    }
}

fn outcome(confirmation: lapin::Result<Confirmation>) -> Outcome {
    match confirmation {
        Ok(Confirmation::Ack(None)) => Outcome::Confirmed,
        Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => Outcome::Returned,
        Ok(Confirmation::Nack(None)) => Outcome::Nacked,
        Ok(Confirmation::NotRequested) => Outcome::NotRequested,
        Err(error) => {
            let error = BrokerError::from(error);
            Outcome::Failed {
                code: error.code(),
                missing: error.missing() == Some(Missing::Exchange),
                detail: error.to_string(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(code: u16) -> Outcome {
        Outcome::Failed {
            code: Some(code),
            missing: code == 404,
            detail: format!("code {code}"),
        }
    }

    fn verdict(outcome: &Outcome) -> Verdict {
        judge(outcome, true, History::default())
    }

    #[test]
    fn only_an_acknowledgement_without_a_return_is_success() {
        assert_eq!(outcome(Ok(Confirmation::Ack(None))), Outcome::Confirmed);
        assert_eq!(outcome(Ok(Confirmation::Nack(None))), Outcome::Nacked);
        assert_eq!(
            outcome(Ok(Confirmation::NotRequested)),
            Outcome::NotRequested
        );
        assert_eq!(verdict(&Outcome::Confirmed), Verdict::Durable);
        for other in [
            Outcome::Returned,
            Outcome::Nacked,
            Outcome::NotRequested,
            Outcome::TimedOut,
            failed(404),
            failed(320),
            failed(403),
        ] {
            let verdict = verdict(&other);
            assert_ne!(verdict, Verdict::Durable, "{other:?}");
            assert!(
                !matches!(verdict, Verdict::Refused(_)),
                "{other:?} is never abandoned"
            );
        }
    }

    #[test]
    fn a_returned_message_is_declared_for_but_only_by_a_coordinator() {
        assert_eq!(verdict(&Outcome::Returned), Verdict::DeclareAgain);
        assert_eq!(verdict(&failed(404)), Verdict::DeclareAgain);
        for outcome in [Outcome::Returned, failed(404)] {
            let verdict = judge(&outcome, false, History::default());
            assert_eq!(verdict, Verdict::FreshChannel);
        }
    }

    /// A queue that can't be reached for now is no reason to declare it, nor to end the epoch.
    #[test]
    fn not_found_without_a_missing_exchange_is_tried_again() {
        let transient = Outcome::Failed {
            code: Some(404),
            missing: false,
            detail: "due to timeout".to_owned(),
        };
        let again = History {
            declared_again: true,
            ..History::default()
        };
        for history in [History::default(), again] {
            let verdict = judge(&transient, true, history);
            assert_eq!(verdict, Verdict::FreshChannel);
        }
    }

    /// ATTACKS 17: an over-limit batch closes the channel, "the same batch again" for ever.
    #[test]
    fn a_permanent_refusal_ends_the_epoch() {
        assert!(matches!(verdict(&failed(406)), Verdict::Refused(_)));
        assert!(matches!(verdict(&failed(311)), Verdict::Refused(_)));
        let again = History {
            declared_again: true,
            ..History::default()
        };
        assert!(matches!(
            judge(&failed(404), true, again),
            Verdict::Refused(_)
        ));
        assert_eq!(
            judge(&Outcome::Returned, true, again),
            Verdict::DeclareAgain
        );
    }

    #[test]
    fn confirms_that_never_come_take_a_channel_then_the_connection() {
        assert_eq!(verdict(&Outcome::TimedOut), Verdict::FreshChannel);
        let again = History {
            confirms_lost: 1,
            ..History::default()
        };
        assert_eq!(
            judge(&Outcome::TimedOut, true, again),
            Verdict::FreshConnection
        );
    }
}
