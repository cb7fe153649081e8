//! Monitoring of queues by the appending end: it declares what publishing needs, and watches the
//! queues. It has its own connection, because a blocked broker stops to read from a connection that
//! publishes.
//!
//! Invariant: a coordinator declares after its start, when a message was returned, and when it
//! finds a queue or an exchange missing.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::AmqpRole;
use super::announcement::known_counters;
use super::bootstrap;
use super::broker_error::BrokerError;
use super::connection::Dialer;
use super::elsewhere::{self, Knows, Silent};
use super::publisher::Publishing;
use super::topology::{Broker, Marker};
use super::trouble::{Saying, Trouble};
use headcount_model::CounterName;
use headcount_telemetry as telemetry;

/// State of the control task.
pub(super) struct Control {
    publishing: Arc<Publishing>,
    role: AmqpRole,
    declarations: mpsc::Receiver<oneshot::Sender<()>>,
    trouble: Trouble,
}

impl Control {
    pub(crate) fn new(
        publishing: Arc<Publishing>,
        role: AmqpRole,
        declarations: mpsc::Receiver<oneshot::Sender<()>>,
    ) -> Self {
        Self {
            publishing,
            role,
            declarations,
            trouble: Trouble::default(),
        }
    }

    fn is_declared(&self) -> bool {
        *self.publishing.declared.borrow()
    }

    /// Declares the `replaced` marker if this broker replaced another one: the cluster was
    /// bootstrapped when this node declared, and is not any more.
    async fn leave_word(&self, broker: &mut Broker) -> Result<(), BrokerError> {
        if self.is_declared() && !broker.has(&Marker::Founded).await? {
            // Otherwise this broker node may be about to join the others, which carry the cluster.
            elsewhere::check_founding(broker).await?;
            broker.mark(&Marker::Replaced).await?;
        }
        Ok(())
    }

    fn refuse(&self, why: String) {
        tracing::error!(why, "publishing stopped: no batch can be appended");
        self.publishing
            .status
            .send_modify(|status| status.fatal = Some(why));
    }
}

/// Declares, then watches the queues; reconnects whenever the connection is lost.
pub(super) async fn run(mut control: Control) {
    let options = Arc::clone(&control.publishing.options);
    let mut dialer = Dialer::new(Arc::clone(&options), "control");
    while control.publishing.status.borrow().fatal.is_none() {
        let link = dialer.dial().await;
        let mut broker = Broker::new(Arc::clone(&options), &link);
        match work(&mut control, &mut broker, &mut dialer).await {
            Ok(()) => return,
            Err(error) if error.is_of_other_arguments() => {
                control.refuse(format!(
                    "queues or exchanges on the broker do not match the settings; check \
                     --queue-type and --prefix: {error}"
                ));
            }
            Err(error) => {
                dialer.is_refused(&error);
                if control.trouble.note(Instant::now()) != Saying::Nothing {
                    tracing::warn!(%error, "broker operation failed; retrying");
                }
            }
        }
        link.close().await;
    }
}

async fn work(
    control: &mut Control,
    broker: &mut Broker,
    dialer: &mut Dialer,
) -> Result<(), BrokerError> {
    match control.is_declared() {
        false => prepare(control, broker).await?,
        true => {
            elsewhere::check(broker, Silent::MayKnow).await?;
        }
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
                watch_queues(control, broker, Declaring::Now).await?;
                for asked in all {
                    let _ = asked.send(());
                }
            }
            _ = ticks.tick() => {
                watch_queues(control, broker, Declaring::WhenMissing).await?;
                // Only after the check, because a temporarily unavailable queue fails each check.
                dialer.worked();
                control.trouble.over();
            }
        }
    }
    Ok(())
}

/// Declares as a coordinator; waits for the bootstrap as a counter.
async fn prepare(control: &Control, broker: &mut Broker) -> Result<(), BrokerError> {
    match &control.role {
        AmqpRole::Coordinator { counters, nodes } => {
            let known = known_counters(&nodes.borrow());
            if let Err(why) = bootstrap::declare(broker, counters, &known).await? {
                control.refuse(why);
                return Ok(());
            }
        }
        AmqpRole::Counter { .. } => {
            while elsewhere::check(broker, Silent::Passes).await? == Knows::Nothing {
                elsewhere::wait_or_move_on(&broker.options).await?;
            }
        }
    }
    control.publishing.declared.send_replace(true);
    Ok(())
}

/// When a check of the queues declares missing ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Declaring {
    /// At once, because a message was returned.
    Now,
    /// If they were missing in the check before too, because RabbitMQ may still be deleting them.
    WhenMissing,
}

/// The state of the counters' queues.
#[derive(Debug, Default)]
struct Queues {
    depths: Vec<(CounterName, u64)>,
    missing: Vec<CounterName>,
    out_of_reach: Vec<CounterName>,
}

/// Reads the lengths of the queues and declares the missing ones of named counters, because those
/// may wait for it, as they wait for the bootstrap of a broker that was replaced. A missing
/// exchange for items is declared too, with all bindings, because counters wait for it. From then
/// on, batches are published to the named counters and to the others that have queues.
async fn watch_queues(
    control: &Control,
    broker: &mut Broker,
    declaring: Declaring,
) -> Result<(), BrokerError> {
    let (counters, nodes) = match &control.role {
        AmqpRole::Coordinator { counters, nodes } => (counters, nodes),
        AmqpRole::Counter { name, nodes } => {
            let mut targets = BTreeSet::from([name.clone()]);
            targets.extend(known_counters(&nodes.borrow()));
            control.publishing.set_targets(targets);
            return Ok(());
        }
    };
    let known = known_counters(&nodes.borrow());
    let mut watched: BTreeSet<CounterName> = counters.iter().cloned().collect();
    watched.extend(known.iter().cloned());
    // Counters that have become silent still receive their batches.
    watched.extend(control.publishing.status.borrow().reached.iter().cloned());
    let mut queues = look_at(broker, &watched).await?;
    let before = control.publishing.status.borrow().missing.clone();
    if !queues.missing.is_empty() && queues.missing != before {
        tracing::error!(
            missing = ?queues.missing,
            "counters have no queue; batches do not reach them"
        );
    }
    let named = still_named(broker, counters, &queues.missing).await?;
    let again = |counter| {
        named.contains(counter) && (declaring == Declaring::Now || before.contains(counter))
    };
    let has_items = broker.has_items().await?;
    if !has_items {
        tracing::warn!(
            "an exchange for items is missing and is declared again with all bindings; no \
             acknowledged item depends on it, but other objects may have been deleted with it"
        );
    }
    if queues.missing.iter().any(again) || !has_items {
        control.leave_word(broker).await?;
        match bootstrap::declare(broker, &named, &known).await? {
            Ok(()) => queues = look_at(broker, &watched).await?,
            Err(why) => tracing::error!(why, "missing queues were not declared"),
        }
    }
    let targets = named.into_iter();
    let there = queues.depths.iter().map(|(counter, _)| counter);
    let others = there.chain(&queues.out_of_reach).cloned();
    control
        .publishing
        .set_targets(targets.chain(others).collect());
    let Queues {
        depths, missing, ..
    } = queues;
    control.publishing.status.send_if_modified(|status| {
        let changed = status.depths != depths || status.missing != missing;
        (status.depths, status.missing) = (depths, missing);
        changed
    });
    Ok(())
}

/// The counters of the settings that were not removed. A removed counter in the settings prevents a
/// coordinator from starting, but does not stop a running one. Counters known only by announcements
/// are not included: such a counter declares its own queue, or was removed.
async fn still_named(
    broker: &mut Broker,
    counters: &[CounterName],
    missing: &[CounterName],
) -> Result<Vec<CounterName>, BrokerError> {
    let mut named = counters.to_vec();
    for counter in missing {
        if broker.has(&Marker::Removed(counter.clone())).await? {
            named.retain(|name| name != counter);
        }
    }
    Ok(named)
}

/// Checks the queues of these counters.
async fn look_at(
    broker: &mut Broker,
    counters: &BTreeSet<CounterName>,
) -> Result<Queues, BrokerError> {
    let mut queues = Queues::default();
    for counter in counters {
        let depth = match broker.depth(counter).await {
            // The queue exists, but its length is unknown for now; the others are still checked.
            Err(error) if error.is_out_of_reach() => {
                tracing::debug!(%error, %counter, "queue is temporarily unavailable");
                queues.out_of_reach.push(counter.clone());
                continue;
            }
            depth => depth?,
        };
        match depth {
            Some(messages) => {
                let gauge =
                    metrics::gauge!(telemetry::QUEUE_MESSAGES, "counter" => counter.to_string());
                gauge.set(messages as f64);
                queues.depths.push((counter.clone(), messages));
            }
            None => queues.missing.push(counter.clone()),
        }
    }
    Ok(queues)
}
