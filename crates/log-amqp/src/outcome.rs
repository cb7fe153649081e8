//! What came of an attempt to publish a batch, and what to do next. Decisions only.
//!
//! Invariant: only a clean acknowledgement of every copy is success, and nothing is given up but
//! what no repetition cures.

use lapin::Confirmation;

use super::broker_error::{BrokerError, Missing};

/// Confirms that may be lost in a row before the connection is given up with the channel.
const CONFIRMS_LOST_MAX: u32 = 2;
/// Attempts in a row that may come back though everything was declared: this connection's node of
/// the broker may not know what another has.
const RETURNS_MAX: u32 = 2;
/// Refusals that no repetition cures: too large (311), what breaks a limit of the broker (406), and
/// what its user may not (403): to publish takes the right to write to `amq.default`.
const PERMANENT: [u16; 3] = [311, 403, 406];
/// The least that a message must be allowed to have: more than a batch of one item with the longest
/// name of a tenant (1,089 bytes), or what a node says of itself.
const MESSAGE_BYTES_MIN: usize = 16 * 1024;

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
    /// The broker takes no message of more than so many bytes: its channel took none of the copies,
    /// which are alike.
    TooLarge { bytes_max: usize },
    /// The broker closed the channel, or the connection was lost: the reply code, if any, what it
    /// says, and whether it says that the exchange is not there.
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
    /// No queue has any of it, nor will have: it is to be appended in smaller batches.
    TooLarge { bytes_max: usize },
    /// The batch can never be appended.
    Refused(String),
}

/// What came before in the life of one batch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct History {
    /// Whether it was tried before, and some queues may have it.
    pub tried: bool,
    pub confirms_lost: u32,
    pub returns: u32,
    pub declared_again: bool,
}

/// Judges how an attempt ended.
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
        // By another connection, to a node of the broker with another limit, some queues may have
        // taken it.
        &Outcome::TooLarge { bytes_max } if !history.tried && bytes_max >= MESSAGE_BYTES_MIN => {
            Verdict::TooLarge { bytes_max }
        }
        Outcome::TooLarge { bytes_max } => Verdict::Refused(format!(
            "it has more bytes than the broker's max_message_size, {bytes_max}, which must be at least {MESSAGE_BYTES_MIN} and the same \
             on all of its nodes"
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

/// What came of an attempt: the worst that came of a copy.
pub(super) fn outcome(confirmations: Vec<lapin::Result<Confirmation>>) -> Outcome {
    let mut failed: Option<BrokerError> = None;
    let mut confirmed = Vec::with_capacity(confirmations.len());
    for confirmation in confirmations {
        match confirmation.map_err(BrokerError::from) {
            Ok(confirmation) => confirmed.push(confirmation),
            // What the broker says tells more than that the channel is closed by then.
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

    /// One copy is still handed over when the refusal of another closes the channel.
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

    /// A node of the broker whose metadata is behind knows no queue that was declared elsewhere.
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
