//! How an attempt to publish a batch ended, and what to do next. Decisions only.
//!
//! Invariant: an attempt succeeded only if every copy was acknowledged and none returned, and a
//! batch is given up only if no retry can succeed.

use lapin::Confirmation;

use super::broker_error::{BrokerError, Missing};

/// Confirms that may time out in a row before the connection is replaced, not only the channel.
const CONFIRMS_LOST_MAX: u32 = 2;
/// Attempts in a row that may be returned although everything was declared. After them another
/// connection is used: this connection's broker node may not know what another node has.
const RETURNS_MAX: u32 = 2;
/// Refusals that no retry cures: a message too large (311), an exceeded limit of the broker (406),
/// and a missing permission (403). Publishing requires the right to write to `amq.default`.
const PERMANENT: [u16; 3] = [311, 403, 406];
/// The least `max_message_size` that works: more than a batch of one item with the longest name of
/// a tenant (1,089 bytes), and more than an announcement.
const MESSAGE_BYTES_MIN: usize = 16 * 1024;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Every copy was acknowledged, and none returned.
    Confirmed,
    /// A copy was returned: no queue received it.
    Returned,
    /// The broker could not store a copy.
    Nacked,
    /// The channel is not in confirm mode.
    NotRequested,
    /// No confirm came in time.
    TimedOut,
    /// The broker accepts no message of more than `bytes_max` bytes. The channel accepted none of
    /// the copies, because they have the same size.
    TooLarge { bytes_max: usize },
    /// The broker closed the channel, or the connection was lost. `code` is the reply code, if
    /// there is one, and `missing` says that the exchange does not exist.
    Failed {
        code: Option<u16>,
        missing: bool,
        detail: String,
    },
}

/// What to do after an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Report success: the batch is in every queue that it is for.
    Durable,
    /// Publish the same batch again, on a new channel.
    FreshChannel,
    /// Publish the same batch again, on another connection.
    FreshConnection,
    /// Publish the same batch again, after everything is declared again.
    DeclareAgain,
    /// Report that no queue has any of it or ever will, so that it is appended in smaller batches.
    TooLarge { bytes_max: usize },
    /// Report that the batch can never be appended.
    Refused(String),
}

/// The earlier attempts of one batch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct History {
    /// Whether the batch was published before, so that some queues may have it.
    pub tried: bool,
    pub confirms_lost: u32,
    pub returns: u32,
    pub declared_again: bool,
}

/// Decides what to do after an attempt.
pub(super) fn judge(outcome: &Outcome, is_coordinator: bool, history: History) -> Verdict {
    match outcome {
        Outcome::Confirmed => Verdict::Durable,
        Outcome::Returned if is_coordinator && history.returns + 1 >= RETURNS_MAX => {
            Verdict::FreshConnection
        }
        Outcome::Returned if is_coordinator => Verdict::DeclareAgain,
        Outcome::Returned | Outcome::Nacked | Outcome::NotRequested => Verdict::FreshChannel,
        Outcome::TimedOut if history.confirms_lost + 1 >= CONFIRMS_LOST_MAX => {
            Verdict::FreshConnection
        }
        Outcome::TimedOut => Verdict::FreshChannel,
        // After an earlier attempt, over another connection to a broker node with another limit,
        // some queues may have the batch.
        &Outcome::TooLarge { bytes_max } if !history.tried && bytes_max >= MESSAGE_BYTES_MIN => {
            Verdict::TooLarge { bytes_max }
        }
        Outcome::TooLarge { bytes_max } => Verdict::Refused(format!(
            "the batch is larger than the broker's max_message_size of {bytes_max} bytes, which \
             must be at least {MESSAGE_BYTES_MIN} bytes and the same on all broker nodes"
        )),
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

/// How an attempt ended, given the results of its copies: the worst of them.
pub(super) fn outcome(confirmations: Vec<lapin::Result<Confirmation>>) -> Outcome {
    let mut failed: Option<BrokerError> = None;
    let mut confirmed = Vec::with_capacity(confirmations.len());
    for confirmation in confirmations {
        match confirmation.map_err(BrokerError::from) {
            Ok(confirmation) => confirmed.push(confirmation),
            // The broker's refusal is more specific than the error that the channel is closed.
            Err(error) if failed.is_none() || error.code().is_some() => failed = Some(error),
            Err(_) => {}
        }
    }
    if let Some(error) = failed {
        return failure(&error);
    }
    let mut worst = Outcome::Confirmed;
    for confirmation in confirmed {
        match confirmation {
            Confirmation::Ack(None) => {}
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => return Outcome::Returned,
            Confirmation::Nack(None) => worst = Outcome::Nacked,
            Confirmation::NotRequested => worst = Outcome::NotRequested,
        }
    }
    worst
}

fn failure(error: &BrokerError) -> Outcome {
    if let Some(bytes_max) = error.message_bytes_max() {
        return Outcome::TooLarge { bytes_max };
    }
    Outcome::Failed {
        code: error.code(),
        missing: error.missing() == Some(Missing::Exchange),
        detail: error.to_string(),
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
        let of = |copies: Vec<Confirmation>| outcome(copies.into_iter().map(Ok).collect());
        let (yes, no) = (|| Confirmation::Ack(None), || Confirmation::Nack(None));
        assert_eq!(of(vec![yes(), yes()]), Outcome::Confirmed);
        for copies in [vec![no(), yes()], vec![yes(), no()]] {
            assert_eq!(of(copies), Outcome::Nacked);
        }
        assert_eq!(
            of(vec![yes(), Confirmation::NotRequested]),
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

    /// A queue that is temporarily unavailable must neither be declared again nor end the epoch.
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

    /// docs/testing/schedules.md, 17: a batch over a limit closes the channel, and "the same batch
    /// again" would be repeated forever.
    #[test]
    fn a_permanent_refusal_ends_the_epoch() {
        assert!(matches!(verdict(&failed(406)), Verdict::Refused(_)));
        assert!(matches!(verdict(&failed(311)), Verdict::Refused(_)));
        assert!(matches!(verdict(&failed(403)), Verdict::Refused(_)));
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

    /// One copy is still being written when the refusal of another closes the channel.
    #[test]
    fn the_word_of_the_broker_is_heard_among_failures_of_a_closed_channel() {
        use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPSoftError};

        let text =
            "PRECONDITION_FAILED - message size 70000 is larger than configured max size 65536";
        let kind = AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED);
        let refusal = || {
            lapin::Error::from(lapin::ErrorKind::ProtocolError(AMQPError::new(
                kind.clone(),
                text.into(),
            )))
        };
        let other = || lapin::Error::from(std::io::Error::other("closed"));
        let too_large = Outcome::TooLarge { bytes_max: 65_536 };
        assert_eq!(outcome(vec![Err(refusal()), Err(other())]), too_large);
        assert_eq!(
            outcome(vec![
                Err(other()),
                Ok(Confirmation::Ack(None)),
                Err(refusal())
            ]),
            too_large
        );
        assert!(matches!(
            outcome(vec![Err(other())]),
            Outcome::Failed { code: None, .. }
        ));
    }

    #[test]
    fn what_is_too_large_may_be_split_while_no_queue_can_have_it() {
        let too_large = |bytes_max| Outcome::TooLarge { bytes_max };
        let bytes_max = 65_536;
        assert_eq!(
            verdict(&too_large(bytes_max)),
            Verdict::TooLarge { bytes_max }
        );
        let tried = History {
            tried: true,
            ..History::default()
        };
        assert!(matches!(
            judge(&too_large(bytes_max), true, tried),
            Verdict::Refused(_)
        ));
        assert!(matches!(verdict(&too_large(1_000)), Verdict::Refused(_)));
    }

    /// A broker node with outdated metadata does not know queues that were declared at other nodes.
    #[test]
    fn what_comes_back_again_and_again_is_tried_at_another_node() {
        let again = History {
            returns: 1,
            declared_again: true,
            ..History::default()
        };
        assert_eq!(
            judge(&Outcome::Returned, true, again),
            Verdict::FreshConnection
        );
        assert_eq!(
            judge(&Outcome::Returned, false, again),
            Verdict::FreshChannel
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
