//! Connecting to the broker again and again, over its list of hosts.
//!
//! Invariant: every wait is bounded, and a broker that comes back is not met by everybody at once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use lapin::protocol::AMQPError;
use lapin::tcp::OwnedTLSConfig;
use lapin::{Connection, ConnectionProperties, ErrorKind, Event};
use thiserror::Error;

use super::{AmqpOptions, AmqpUrl};
use crate::telemetry;

/// The pause after a first failure; it doubles from there.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two attempts, before jitter.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a connection is looked at beside what it reports of itself.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// The longest that an operation other than a publish may take.
pub(super) const OPERATION_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest that a farewell may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The broker's reply when something is not there, or can't be reached.
const NOT_FOUND: u16 = 404;
/// How the broker's text begins when a queue is not there; its name follows.
const NO_QUEUE: &str = "NOT_FOUND - no queue '";
/// How the broker's text begins when an exchange is not there; its name follows.
const NO_EXCHANGE: &str = "NOT_FOUND - no exchange '";

/// The broker's reply to what breaks one of its limits, among others.
const PRECONDITION_FAILED: u16 = 406;
/// What the broker says of a message that is larger than it takes; the sizes follow.
const TOO_LARGE: &str = "message size ";

/// Why something on the broker failed.
#[derive(Debug, Clone, Error)]
pub(super) enum BrokerError {
    #[error("{0}")]
    Lapin(lapin::Error),
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// What was to be done was not, and the text says why.
    #[error("{0}")]
    Undone(String),
}

impl From<lapin::Error> for BrokerError {
    fn from(error: lapin::Error) -> Self {
        Self::Lapin(error)
    }
}

impl BrokerError {
    /// The broker's reply code, if the broker refused: 404 not found, 405 locked, 406 precondition failed…
    pub fn code(&self) -> Option<u16> {
        self.refusal().map(AMQPError::get_id)
    }

    /// What the broker says is not there, if it is that.
    pub fn missing(&self) -> Option<Missing> {
        let refusal = self.refusal()?;
        missing(refusal.get_id(), refusal.get_message().as_str())
    }

    /// Whether the broker says of what was asked for that it is there, and can't be reached for now.
    pub fn is_out_of_reach(&self) -> bool {
        self.refusal().is_some_and(|refusal| {
            is_out_of_reach(refusal.get_id(), refusal.get_message().as_str())
        })
    }

    /// The most bytes that the broker's `max_message_size` allows a message, if it refused one that has more.
    pub fn message_bytes_max(&self) -> Option<usize> {
        let refusal = self.refusal()?;
        message_bytes_max(refusal.get_id(), refusal.get_message().as_str())
    }

    /// Whether no answer came in time.
    pub fn is_timeout(&self) -> bool {
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

/// What is not on the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Queue,
    Exchange,
}

/// What a refusal says is not there. The code is the same where the broker can't tell or is in between: for a queue whose
/// node is down, whose process crashed, was stopped, is being demoted or does not answer in time. None of these is a loss,
/// and all pass.
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

/// Whether a refusal says of what was asked for that it is there, and can't be reached for now.
fn is_out_of_reach(code: u16, text: &str) -> bool {
    code == NOT_FOUND && missing(code, text).is_none()
}

/// The bound that the refusal of a message names which is larger: "PRECONDITION_FAILED - message size 70000 is larger than configured max
/// size 65536", of 3.10 to 4.
fn message_bytes_max(code: u16, text: &str) -> Option<usize> {
    let (_, sizes) = text.split_once(TOO_LARGE)?;
    let (_, bound) = sizes.rsplit_once(' ')?;
    (code == PRECONDITION_FAILED)
        .then(|| bound.parse().ok())
        .flatten()
}

/// Runs one operation on the broker within [`OPERATION_TIMEOUT`].
pub(super) async fn timed<T>(
    operation: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(OPERATION_TIMEOUT, operation).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(BrokerError::Timeout(OPERATION_TIMEOUT)),
    }
}

/// The pause before attempt `failures + 1`: doubling from 100 ms to 5 s, and of that a random half to whole, so
/// that nodes which lost the same broker don't return together.
pub(super) fn pause(failures: u32, random: u64) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let doubled = PAUSE_MIN
        .saturating_mul(1 << (failures - 1).min(16))
        .min(PAUSE_MAX);
    let half_ms = doubled.as_millis() as u64 / 2;
    Duration::from_millis(half_ms + random % (half_ms + 1))
}

/// Waits before attempt `failures + 1`.
pub(super) async fn wait_before(failures: u32) {
    tokio::time::sleep(pause(failures, random())).await;
}

/// A random number for jitter and names; 0 where the system has none, which only costs the spread.
pub(super) fn random() -> u64 {
    getrandom::u64().unwrap_or_default()
}

/// Connects, for one purpose, to one host after the other.
pub(super) struct Dialer {
    options: Arc<AmqpOptions>,
    purpose: String,
    attempts: usize,
    failures: u32,
    connected_before: bool,
}

impl Dialer {
    pub fn new(options: Arc<AmqpOptions>, purpose: impl Into<String>) -> Self {
        Self {
            options,
            purpose: purpose.into(),
            attempts: 0,
            failures: 0,
            connected_before: false,
        }
    }

    /// The same; it begins with the host at `address`, as one that another connection leads to.
    pub fn beginning_at(
        address: usize,
        options: Arc<AmqpOptions>,
        purpose: impl Into<String>,
    ) -> Self {
        Self {
            attempts: address,
            ..Self::new(options, purpose)
        }
    }

    /// The last connection was of use: the next attempt need not wait.
    pub fn worked(&mut self) {
        self.failures = 0;
    }

    /// Connects; tries until it succeeds, each time the next host.
    pub async fn dial(&mut self) -> Link {
        loop {
            wait_before(self.failures).await;
            self.failures = self.failures.saturating_add(1);
            match self.dial_once().await {
                Ok(link) => return link,
                // The first, the second, the fourth…: an outage must not fill the log.
                Err((url, error)) if self.failures.is_power_of_two() => {
                    tracing::warn!(%url, %error, purpose = self.purpose, "the broker can't be reached");
                }
                Err(_) => {}
            }
        }
    }

    /// One attempt at the next host.
    pub async fn dial_once(&mut self) -> Result<Link, (String, BrokerError)> {
        let hosts = self.options.urls.len().max(1);
        let address = self.attempts % hosts;
        let Some(url) = self.options.urls.get(address) else {
            let none = lapin::Error::from(std::io::Error::other("no host is configured"));
            return Err((String::new(), none.into()));
        };
        self.attempts = self.attempts.wrapping_add(1);
        let connection = connect(&self.options, url, &self.purpose)
            .await
            .map_err(|error| (url.to_string(), error))?;
        if std::mem::replace(&mut self.connected_before, true) {
            telemetry::count(telemetry::BROKER_RECONNECTS, 1);
        }
        tracing::info!(%url, purpose = self.purpose, "connected to the broker");
        Ok(Link::new(connection, address))
    }
}

/// Connects to one host.
pub(super) async fn connect(
    options: &AmqpOptions,
    url: &AmqpUrl,
    purpose: &str,
) -> Result<Connection, BrokerError> {
    let mut uri = url.uri().clone();
    uri.query.connection_timeout = Some(options.connect_timeout.as_millis() as u64);
    uri.query.heartbeat = Some(options.heartbeat.as_secs().clamp(1, 600) as u16);
    let name = format!("{} {purpose}", options.prefix);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let tls = OwnedTLSConfig {
        cert_chain: options.authorities.clone(),
        ..OwnedTLSConfig::default()
    };
    let runtime = lapin::runtime::default_runtime()?;
    let connecting = Connection::connect_uri_with_config(uri, properties, tls, runtime);
    match tokio::time::timeout(options.connect_timeout, connecting).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(BrokerError::Timeout(options.connect_timeout)),
    }
}

/// What a connection reports of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LinkEvent {
    /// The broker takes nothing for now: a memory or disk alarm.
    Blocked(String),
    /// The broker takes messages again.
    Unblocked,
    /// The connection is lost.
    Gone,
}

/// A connection and what it reports.
pub(super) struct Link {
    pub connection: Arc<Connection>,
    /// Which of the broker's addresses it leads to, counted from 0.
    pub address: usize,
    events: std::pin::Pin<Box<dyn Stream<Item = Event> + Send>>,
}

impl Link {
    pub fn new(connection: Connection, address: usize) -> Self {
        let events = Box::pin(connection.events_listener());
        Self {
            connection: Arc::new(connection),
            address,
            events,
        }
    }

    /// Waits until the connection has something to report.
    pub async fn event(&mut self) -> LinkEvent {
        loop {
            if !self.connection.status().connected() {
                return LinkEvent::Gone;
            }
            match tokio::time::timeout(LOOK_INTERVAL, self.events.next()).await {
                Ok(Some(Event::ConnectionBlocked(why))) => return LinkEvent::Blocked(why),
                Ok(Some(Event::ConnectionUnblocked)) => return LinkEvent::Unblocked,
                Ok(None) => return LinkEvent::Gone,
                Ok(Some(_)) | Err(_) => {}
            }
        }
    }

    /// Says goodbye, so that the broker takes back at once what was not acknowledged.
    pub async fn close(self) {
        close(&self.connection).await;
    }
}

/// Says goodbye to the broker; a broker that does not answer is left alone.
pub(super) async fn close(connection: &Connection) {
    let goodbye = connection.close(200, "OK".into());
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, goodbye).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts are RabbitMQ's, of 3.10 to 4.
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
            "NOT_FOUND - failed to perform operation on queue 'q' in vhost '/': its master replica <0.9.0> may be \
             stopping or being demoted",
            // Whoever names a queue so gains nothing.
            "NOT_FOUND - queue 'no queue 'c1'' in vhost '/' process is stopped by supervisor",
            "NOT_FOUND - failed to perform operation on queue 'NOT_FOUND - no queue 'c1' in vhost '/' due to timeout",
            "NOT_FOUND - no binding e between exchange 'e' in vhost '/' and queue 'q' in vhost '/'",
            "NOT_FOUND",
            "",
        ] {
            assert_eq!(missing(404, passing), None, "{passing}");
            assert!(is_out_of_reach(404, passing), "{passing}");
        }
        // A name may hold what other answers say.
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

    #[test]
    fn pauses_double_up_to_a_limit_and_are_spread() {
        assert_eq!(pause(0, 7), Duration::ZERO);
        assert_eq!(pause(1, 0), Duration::from_millis(50));
        assert_eq!(pause(1, 50), Duration::from_millis(100));
        assert_eq!(pause(3, 0), Duration::from_millis(200));
        for failures in [7, 20, u32::MAX] {
            for random in [0, 1, 2_499, 2_500, 2_501, u64::MAX] {
                let pause = pause(failures, random);
                assert!(pause >= PAUSE_MAX / 2 && pause <= PAUSE_MAX, "{pause:?}");
            }
        }
    }
}
