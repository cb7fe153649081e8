//! Connecting to the broker, with retries over its list of hosts.
//!
//! Invariant: every wait is bounded, and nodes spread their reconnects to a recovered broker.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use lapin::tcp::OwnedTLSConfig;
use lapin::{Connection, ConnectionProperties, Event};

use super::broker_error::BrokerError;
use super::{AmqpOptions, AmqpUrl};
use headcount_telemetry as telemetry;

/// The pause after the first failure; it doubles with each further failure.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two attempts, before jitter.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a connection's state is checked in addition to the events that it reports.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// The longest that an operation other than a publish may take.
pub(super) const OPERATION_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest that closing a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The least `channel_max` of a connection. No purpose uses more channels at once, including those
/// that are being closed.
const CHANNELS_MIN: u16 = 16;

/// Runs one operation on the broker within [`OPERATION_TIMEOUT`].
pub(super) async fn timed<T>(
    operation: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(OPERATION_TIMEOUT, operation).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(BrokerError::Timeout(OPERATION_TIMEOUT)),
    }
}

/// The pause before attempt `failures + 1`: it doubles from 100 ms to 5 s. A random factor from a
/// half to one spreads the reconnects of nodes that lost the same broker.
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

/// A random number for jitter and names; 0 if the system has none, which only costs the spread.
pub(super) fn random() -> u64 {
    getrandom::u64().unwrap_or_default()
}

/// Connects to one host after the other, for one purpose.
pub(super) struct Dialer {
    options: Arc<AmqpOptions>,
    purpose: String,
    attempts: usize,
    failures: u32,
    connected_before: bool,
    /// Whether the recorded refusal is of the connection itself.
    is_refused_to_connect: bool,
}

impl Dialer {
    pub(crate) fn new(options: Arc<AmqpOptions>, purpose: impl Into<String>) -> Self {
        Self {
            options,
            purpose: purpose.into(),
            attempts: 0,
            failures: 0,
            connected_before: false,
            is_refused_to_connect: false,
        }
    }

    /// Starts with the host at `address`, to which another connection already leads.
    pub(crate) fn beginning_at(
        address: usize,
        options: Arc<AmqpOptions>,
        purpose: impl Into<String>,
    ) -> Self {
        Self {
            attempts: address,
            ..Self::new(options, purpose)
        }
    }

    /// Notes that the last connection was useful: the next attempt does not wait.
    pub(crate) fn worked(&mut self) {
        self.failures = 0;
        self.is_granted();
    }

    /// Records an error of the broker until [`is_granted`](Self::is_granted) clears it.
    pub(crate) fn is_refused(&self, error: &BrokerError) {
        self.options.refusals.note(&self.purpose, error.to_string());
    }

    /// Clears the recorded error.
    pub(crate) fn is_granted(&self) {
        self.options.refusals.over(&self.purpose);
    }

    /// Connects. Retries with the next host until an attempt succeeds.
    pub(crate) async fn dial(&mut self) -> Link {
        loop {
            wait_before(self.failures).await;
            self.failures = self.failures.saturating_add(1);
            let (url, error) = match self.dial_once().await {
                Ok(link) => {
                    if std::mem::take(&mut self.is_refused_to_connect) {
                        self.is_granted();
                    }
                    return link;
                }
                Err(failure) => failure,
            };
            self.is_refused(&error);
            self.is_refused_to_connect = true;
            // Logs failures 1, 2, 4, 8…, so that an outage does not fill the log.
            if self.failures.is_power_of_two() {
                tracing::warn!(
                    %url,
                    %error,
                    purpose = self.purpose,
                    "connecting to the broker failed; retrying"
                );
            }
        }
    }

    /// Makes one attempt at the next host.
    pub(crate) async fn dial_once(&mut self) -> Result<Link, (String, BrokerError)> {
        let hosts = self.options.urls.len().max(1);
        let address = self.attempts % hosts;
        let Some(url) = self.options.urls.get(address) else {
            let none = lapin::Error::from(std::io::Error::other("no broker address is configured"));
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
    let connection = match tokio::time::timeout(options.connect_timeout, connecting).await {
        Ok(connected) => connected?,
        Err(_) => return Err(BrokerError::Timeout(options.connect_timeout)),
    };
    match connection.configuration().channel_max() {
        // 0 means no limit (AMQP 0-9-1, connection.tune).
        few @ 1..CHANNELS_MIN => {
            close(&connection).await;
            Err(BrokerError::Undone(format!(
                "channel_max is {few}; it must be at least {CHANNELS_MIN}"
            )))
        }
        _ => Ok(connection),
    }
}

/// What a connection reports about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LinkEvent {
    /// The broker accepts no messages: a memory or disk alarm.
    Blocked(String),
    /// The broker accepts messages again.
    Unblocked,
    /// The connection was lost.
    Gone,
}

/// A connection and its events.
pub(super) struct Link {
    pub connection: Arc<Connection>,
    /// The index of the broker's address that it leads to.
    pub address: usize,
    events: std::pin::Pin<Box<dyn Stream<Item = Event> + Send>>,
}

impl Link {
    pub(crate) fn new(connection: Connection, address: usize) -> Self {
        let events = Box::pin(connection.events_listener());
        Self {
            connection: Arc::new(connection),
            address,
            events,
        }
    }

    /// Waits for the next event of the connection.
    pub(crate) async fn event(&mut self) -> LinkEvent {
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

    /// Closes the connection, so that the broker requeues unacknowledged deliveries at once.
    pub(crate) async fn close(self) {
        close(&self.connection).await;
    }
}

/// Closes a connection; gives up if the broker does not respond.
pub(super) async fn close(connection: &Connection) {
    let goodbye = connection.close(200, "OK".into());
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, goodbye).await;
}

#[cfg(test)]
mod tests {
    use super::*;

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
