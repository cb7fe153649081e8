//! Errors of broker operations, and the meaning of the broker's replies.
//!
//! Invariant: pure. A reply is not interpreted as permanent if RabbitMQ, 3.10 to 4, also sends it
//! for a transient condition.

use std::time::Duration;

use lapin::ErrorKind;
use lapin::protocol::AMQPError;
use thiserror::Error;

/// The reply code when something does not exist or is not available.
const NOT_FOUND: u16 = 404;
/// The start of the broker's text when a queue does not exist; the queue's name follows.
const NO_QUEUE: &str = "NOT_FOUND - no queue '";
/// The start of the broker's text when an exchange does not exist; the exchange's name follows.
const NO_EXCHANGE: &str = "NOT_FOUND - no exchange '";

/// The reply code when a limit of the broker is exceeded, among other causes.
const PRECONDITION_FAILED: u16 = 406;
/// The start of the broker's text when a virtual host has reached its limit of queues.
const CAN_NOT_DECLARE: &str = "PRECONDITION_FAILED - cannot declare queue '";
/// The part of the broker's text that precedes the sizes, when a message is too large.
const TOO_LARGE: &str = "message size ";

/// Why an operation on the broker failed.
#[derive(Debug, Clone, Error)]
pub(super) enum BrokerError {
    #[error("{0}")]
    Lapin(lapin::Error),
    #[error("no response within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The operation was not done; the text gives the reason.
    #[error("{0}")]
    Undone(String),
}

impl From<lapin::Error> for BrokerError {
    fn from(error: lapin::Error) -> Self {
        Self::Lapin(error)
    }
}

impl BrokerError {
    /// The reply code, if the broker refused: 404 not found, 405 locked, 406 precondition failed…
    pub(crate) fn code(&self) -> Option<u16> {
        self.refusal().map(AMQPError::get_id)
    }

    /// The kind of the missing object, if the broker reports one.
    pub(crate) fn missing(&self) -> Option<Missing> {
        let refusal = self.refusal()?;
        missing(refusal.get_id(), refusal.get_message().as_str())
    }

    /// Whether the broker reports that the object exists but is temporarily unavailable.
    pub(crate) fn is_out_of_reach(&self) -> bool {
        self.refusal().is_some_and(|refusal| {
            is_out_of_reach(refusal.get_id(), refusal.get_message().as_str())
        })
    }

    /// Whether the broker has an object of that name with other properties, or cannot have it: a
    /// retry cannot succeed. A reached limit has the same code but does not count, because an
    /// operator can raise it.
    pub(crate) fn is_of_other_arguments(&self) -> bool {
        self.refusal().is_some_and(|refusal| {
            refusal.get_id() == PRECONDITION_FAILED
                && !is_of_a_limit(refusal.get_message().as_str())
        })
    }

    /// The broker's `max_message_size` in bytes, if it refused a larger message.
    pub(crate) fn message_bytes_max(&self) -> Option<usize> {
        let refusal = self.refusal()?;
        message_bytes_max(refusal.get_id(), refusal.get_message().as_str())
    }

    /// Whether no response came in time.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout(_))
    }

    fn refusal(&self) -> Option<&AMQPError> {
        match self {
            Self::Lapin(error) => match error.kind() {
                ErrorKind::ProtocolError(error) => Some(error),
                _ => None,
            },
            Self::Timeout(_) | Self::Undone(_) => None,
        }
    }
}

/// The kind of an object that does not exist on the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Queue,
    Exchange,
}

/// The kind of the object that a refusal reports as missing. The code is the same if the broker
/// cannot tell: for a queue whose node is down, or whose process crashed, was stopped, is being
/// demoted or does not answer in time. None of these is a loss, and all are transient.
fn missing(code: u16, text: &str) -> Option<Missing> {
    if code != NOT_FOUND {
        None
    } else if text.starts_with(NO_QUEUE) {
        Some(Missing::Queue)
    } else if text.starts_with(NO_EXCHANGE) {
        Some(Missing::Exchange)
    } else {
        None
    }
}

/// Whether a refusal reports that the object exists but is temporarily unavailable.
fn is_out_of_reach(code: u16, text: &str) -> bool {
    code == NOT_FOUND && missing(code, text).is_none()
}

/// The limit in a refusal of a message that is too large, by 3.10 to 4: "PRECONDITION_FAILED -
/// message size 70000 is larger than configured max size 65536".
fn message_bytes_max(code: u16, text: &str) -> Option<usize> {
    let (_, sizes) = text.split_once(TOO_LARGE)?;
    let (_, bound) = sizes.rsplit_once(' ')?;
    (code == PRECONDITION_FAILED)
        .then(|| bound.parse().ok())
        .flatten()
}

/// Whether a refusal reports a reached limit of a virtual host: "cannot declare queue 'q': queue
/// limit in vhost '/' (3) is reached".
fn is_of_a_limit(text: &str) -> bool {
    // RabbitMQ truncates long texts, so the end may be missing.
    text.starts_with(CAN_NOT_DECLARE) || (text.contains(" limit ") && text.ends_with("is reached"))
}

#[cfg(test)]
mod tests {
    use super::super::connection::OPERATION_TIMEOUT;
    use super::*;

    /// The texts are those of RabbitMQ 3.10 to 4.
    #[test]
    fn only_what_the_broker_has_no_record_of_is_missing() {
        let queue = "NOT_FOUND - no queue 'h.items.0.c1' in vhost '/'";
        assert_eq!(missing(404, queue), Some(Missing::Queue));
        let exchange = "NOT_FOUND - no exchange 'h.items.0' in vhost '/'";
        assert_eq!(missing(404, exchange), Some(Missing::Exchange));
        for passing in [
            "NOT_FOUND - home node 'r@h' of durable queue 'q' in vhost '/' is down or inaccessible",
            "NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor",
            "NOT_FOUND - queue 'q' in vhost '/' has crashed and failed to restart",
            "NOT_FOUND - failed to perform operation on queue 'q' in vhost '/' due to timeout",
            "NOT_FOUND - failed to perform operation on queue 'q' in vhost '/': its master replica \
             <0.9.0> may be stopping or being demoted",
            // The name of a queue must not change the result.
            "NOT_FOUND - queue 'no queue 'c1'' in vhost '/' process is stopped by supervisor",
            "NOT_FOUND - failed to perform operation on queue 'NOT_FOUND - no queue 'c1' in vhost \
             '/' due to timeout",
            "NOT_FOUND - no binding e between exchange 'e' in vhost '/' and queue 'q' in vhost '/'",
            "NOT_FOUND",
            "",
        ] {
            assert_eq!(missing(404, passing), None, "{passing}");
            assert!(is_out_of_reach(404, passing), "{passing}");
        }
        // A name may contain the text of another reply.
        let named = "NOT_FOUND - no queue 'is down or inaccessible due to timeout' in vhost '/'";
        assert_eq!(missing(404, named), Some(Missing::Queue));
        for (code, text) in [
            (404, queue),
            (404, exchange),
            (406, queue),
            (320, "vhost is down"),
        ] {
            assert!(!is_out_of_reach(code, text), "{text}");
        }
        assert_eq!(missing(406, queue), None);
        assert_eq!(BrokerError::Timeout(OPERATION_TIMEOUT).missing(), None);
    }

    #[test]
    fn a_limit_is_told_from_other_arguments() {
        assert!(is_of_a_limit(
            "PRECONDITION_FAILED - cannot declare queue 'q': queue limit in vhost '/' (3) is \
             reached"
        ));
        assert!(!is_of_a_limit(
            "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'limit is reached' in \
             vhost '/': received 'classic' but current is 'quorum'"
        ));
    }

    #[test]
    fn the_bound_of_messages_is_read_from_the_refusal() {
        let configured =
            "PRECONDITION_FAILED - message size 70000 is larger than configured max size 65536";
        assert_eq!(message_bytes_max(406, configured), Some(65_536));
        let greatest =
            "PRECONDITION_FAILED - message size 600000000 is larger than max size 536870912";
        assert_eq!(message_bytes_max(406, greatest), Some(536_870_912));
        for (code, text) in [
            (404, configured),
            (
                406,
                "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q'",
            ),
            (406, "PRECONDITION_FAILED - message size is too large"),
            (
                406,
                "PRECONDITION_FAILED - message size 1 is larger than some",
            ),
        ] {
            assert_eq!(message_bytes_max(code, text), None, "{text}");
        }
    }
}
