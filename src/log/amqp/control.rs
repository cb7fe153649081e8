//! What the appending end does beside publishing, on a connection of its own: a broker that is blocked stops
//! reading where it was published to.
//!
//! Invariant: a coordinator declares after its start, when a message came back, and when it finds a queue missing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::AmqpRole;
use super::connection::{BrokerError, Dialer};
use super::founding;
use super::presence::known_counters;
use super::publisher::Publishing;
use super::topology::{Broker, Marker};
use crate::model::CounterName;
use crate::telemetry;

/// How often a counter looks whether the cluster is founded.
const FOUNDED_INTERVAL: Duration = Duration::from_millis(500);
/// The broker's reply when a queue is there with other arguments.
const OTHER_ARGUMENTS: u16 = 406;

/// The task's own state.
pub(super) struct Control {
    publishing: Arc<Publishing>,
    role: AmqpRole,
    declarations: mpsc::Receiver<oneshot::Sender<()>>,
}

impl Control {
    pub fn new(
        publishing: Arc<Publishing>,
        role: AmqpRole,
        declarations: mpsc::Receiver<oneshot::Sender<()>>,
    ) -> Self {
        Self {
            publishing,
            role,
            declarations,
        }
    }

    fn is_declared(&self) -> bool {
        *self.publishing.declared.borrow()
    }

    fn refuse(&self, why: String) {
        tracing::error!(why, "nothing can be appended");
        self.publishing
            .status
            .send_modify(|status| status.fatal = Some(why));
    }
}

/// Declares, then watches the queues; connects again whenever the connection is lost.
pub(super) async fn run(mut control: Control) {
    let options = Arc::clone(&control.publishing.options);
    let mut dialer = Dialer::new(Arc::clone(&options), "control");
    while control.publishing.status.borrow().fatal.is_none() {
        let link = dialer.dial().await;
        let mut broker = Broker::new(Arc::clone(&options), Arc::clone(&link.connection));
        match work(&mut control, &mut broker, &mut dialer).await {
            Ok(()) => return,
            Err(error) if error.code() == Some(OTHER_ARGUMENTS) => {
                control.refuse(format!(
                    "what is on the broker does not match these settings (queue type? prefix?): {error}"
                ));
            }
            Err(error) => tracing::warn!(%error, "the broker did not do as asked; once more"),
        }
        link.close().await;
    }
}

async fn work(
    control: &mut Control,
    broker: &mut Broker,
    dialer: &mut Dialer,
) -> Result<(), BrokerError> {
    if !control.is_declared() {
        prepare(control, broker).await?;
    }
    let mut ticks = tokio::time::interval(broker.options.depth_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while control.publishing.status.borrow().fatal.is_none() {
        tokio::select! {
            asked = control.declarations.recv() => {
                let Some(asked) = asked else { return Ok(()) };
                let mut all = vec![asked];
                while let Ok(another) = control.declarations.try_recv() {
                    all.push(another);
                }
                prepare(control, broker).await?;
                for asked in all {
                    let _ = asked.send(());
                }
            }
            _ = ticks.tick() => {
                watch_queues(control, broker).await?;
                // Not before: a queue that can't be reached for now fails each look.
                dialer.worked();
            }
        }
    }
    Ok(())
}

/// Declares as a coordinator, waits as a counter.
async fn prepare(control: &Control, broker: &mut Broker) -> Result<(), BrokerError> {
    match &control.role {
        AmqpRole::Coordinator { counters, nodes } => {
            let known = known_counters(&nodes.borrow());
            if let Err(why) = founding::declare(broker, counters, &known).await? {
                control.refuse(why);
                return Ok(());
            }
        }
        AmqpRole::Counter => {
            while !broker.has(&Marker::Founded).await? {
                tokio::time::sleep(FOUNDED_INTERVAL).await;
            }
        }
    }
    control.publishing.declared.send_replace(true);
    Ok(())
}

/// Asks how long the queues are. Named counters that had none twice in a row get theirs declared: they may wait for
/// it, as for the founding of a broker that was replaced. Not at once: RabbitMQ may still be deleting. An exchange that is
/// gone is declared too, with all bindings: counters wait for it.
async fn watch_queues(control: &Control, broker: &mut Broker) -> Result<(), BrokerError> {
    let AmqpRole::Coordinator { counters, nodes } = &control.role else {
        return Ok(());
    };
    let mut watched: BTreeSet<CounterName> = counters.iter().cloned().collect();
    watched.extend(known_counters(&nodes.borrow()));
    let (mut depths, mut missing) = (Vec::new(), Vec::new());
    for counter in watched {
        match broker.depth(&counter).await? {
            Some(messages) => {
                let gauge =
                    metrics::gauge!(telemetry::QUEUE_MESSAGES, "counter" => counter.to_string());
                gauge.set(messages as f64);
                depths.push((counter, messages));
            }
            None => missing.push(counter),
        }
    }
    let before = control.publishing.status.borrow().missing.clone();
    if !missing.is_empty() && missing != before {
        tracing::error!(
            ?missing,
            "counters have no queue: what is posted does not reach them"
        );
    }
    // A counter that only announced itself declares its own, or was removed.
    let mut named = counters.clone();
    for counter in &missing {
        // That a name is spent ends a coordinator that starts, not one that works.
        if before.contains(counter) && broker.has(&Marker::Removed(counter.clone())).await? {
            named.retain(|name| name != counter);
        }
    }
    let again = |counter| before.contains(counter) && named.contains(counter);
    if missing.iter().any(again) || !broker.has_items().await? {
        let known = known_counters(&nodes.borrow());
        if let Err(why) = founding::declare(broker, &named, &known).await? {
            tracing::error!(why, "the missing queues are not declared");
        }
    }
    control.publishing.status.send_if_modified(|status| {
        let changed = status.depths != depths || status.missing != missing;
        (status.depths, status.missing) = (depths, missing);
        changed
    });
    Ok(())
}
