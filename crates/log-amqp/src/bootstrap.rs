//! Bootstrap of a cluster on a broker: what a coordinator declares before it publishes, and again
//! when a message is returned; what a counter creates.
//!
//! Invariant: nobody publishes before the bootstrap is complete. A queue that is missing afterwards
//! is declared again only after a marker reports the loss to its counter; a queue that a check has
//! found is bound, never created. One node declares at a time.

use std::time::Duration;

use super::broker_error::BrokerError;
use super::elsewhere;
use super::renewal;
use super::topology::{Broker, Marker};
use headcount_model::CounterName;

/// The pause before the next check if a queue disappeared after the last one: RabbitMQ may still be
/// deleting it.
const VANISHED_PAUSE: Duration = Duration::from_secs(1);
/// The most checks in a row after which a queue disappears; then the connection is given up.
const LOOKS_MAX: usize = 8;

/// What the broker stores about one counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CounterFacts {
    pub name: CounterName,
    /// Whether the settings name it. Then it must exist, and must not have been removed.
    pub named: bool,
    pub removed: bool,
    pub queues: bool,
}

/// What to declare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Bootstrap, because nothing was ever published: declare the queues of every counter and its
    /// `founding` marker, and the `founded` marker last.
    Found(Vec<CounterName>),
    /// Bind the queues that exist. Declare the missing ones, each after the marker of its loss.
    Declare {
        there: Vec<CounterName>,
        lost: Vec<CounterName>,
    },
    /// Refuse, because a named counter was removed and its name cannot be used again.
    Refuse(String),
}

/// Decides what to declare.
pub(super) fn plan(founded: bool, facts: &[CounterFacts]) -> Plan {
    if let Some(spent) = facts
        .iter()
        .find(|counter| counter.named && counter.removed)
    {
        let name = &spent.name;
        return Plan::Refuse(format!(
            "counter {name} was removed from this cluster, and its name cannot be used again; \
             remove it from --counters, or give its successor a new name"
        ));
    }
    let present = facts.iter().filter(|counter| !counter.removed);
    let named = |counters: Vec<&CounterFacts>| -> Vec<CounterName> {
        let names = counters.iter().map(|counter| counter.name.clone());
        names.collect()
    };
    if !founded {
        return Plan::Found(named(present.collect()));
    }
    let (there, lost) = present.partition(|counter| counter.queues);
    Plan::Declare {
        there: named(there),
        lost: named(lost),
    }
}

/// Declares what the `named` counters and the `known` ones, which announced themselves, need. The
/// inner error is final.
pub(super) async fn declare(
    broker: &mut Broker,
    named: &[CounterName],
    known: &[CounterName],
) -> Result<Result<(), String>, BrokerError> {
    broker.lock().await?;
    let declared = declare_locked(broker, named, known).await;
    // If this fails, the lock ends with the connection.
    broker.unlock().await?;
    declared
}

/// What a counter creates without a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Creation {
    /// Its item queues, after it has reported a possible loss.
    Items,
    /// Its generation queue.
    Generation,
}

/// Creates a counter's queues; false if the counter was removed. It holds the lock, because
/// `remove-counter` deletes only what was created before.
pub(super) async fn create(
    broker: &mut Broker,
    counter: &CounterName,
    what: Creation,
) -> Result<bool, BrokerError> {
    broker.lock().await?;
    let created = create_locked(broker, counter, what).await;
    broker.unlock().await?;
    created
}

async fn create_locked(
    broker: &mut Broker,
    counter: &CounterName,
    what: Creation,
) -> Result<bool, BrokerError> {
    if broker.has(&Marker::Removed(counter.clone())).await? {
        return Ok(false);
    }
    match what {
        Creation::Items => broker.declare_queues(counter).await?,
        Creation::Generation => broker.declare_generation(counter).await?,
    }
    Ok(true)
}

async fn declare_locked(
    broker: &mut Broker,
    named: &[CounterName],
    known: &[CounterName],
) -> Result<Result<(), String>, BrokerError> {
    let mut looks = 0;
    loop {
        let plan = look(broker, named, known).await?;
        looks += 1;
        match carry_out(broker, plan).await {
            Err(error) if error.missing().is_some() && looks < LOOKS_MAX => {
                tracing::warn!(%error, "queue or exchange disappeared; checking again");
                tokio::time::sleep(VANISHED_PAUSE).await;
            }
            done => return done,
        }
    }
}

/// Checks the broker and decides what to declare.
async fn look(
    broker: &mut Broker,
    named: &[CounterName],
    known: &[CounterName],
) -> Result<Plan, BrokerError> {
    let founded = elsewhere::check_founding(broker).await?;
    let mut facts = Vec::new();
    let others = known.iter().filter(|name| !named.contains(name));
    for (name, is_named) in named
        .iter()
        .map(|name| (name, true))
        .chain(others.map(|it| (it, false)))
    {
        facts.push(CounterFacts {
            name: name.clone(),
            named: is_named,
            removed: broker.has(&Marker::Removed(name.clone())).await?,
            queues: broker.depth(name).await?.is_some(),
        });
    }
    Ok(plan(founded, &facts))
}

/// Carries out a plan. If something that the plan expects is [missing](BrokerError::missing), a new
/// plan is needed. The inner error is final.
async fn carry_out(broker: &mut Broker, plan: Plan) -> Result<Result<(), String>, BrokerError> {
    match plan {
        Plan::Found(counters) => {
            broker.declare_items().await?;
            for counter in &counters {
                broker.declare_generation(counter).await?;
            }
            // Before the markers: a counter with a `founding` marker but without this message would
            // report a loss.
            renewal::found(broker, &counters).await?;
            for counter in &counters {
                broker.declare_queues(counter).await?;
                broker.mark(&Marker::Founding(counter.clone())).await?;
            }
            broker.mark(&Marker::Founded).await?;
            tracing::info!(?counters, "cluster bootstrapped");
        }
        Plan::Declare { there, lost } => {
            broker.declare_items().await?;
            for counter in &there {
                broker.bind_queues(counter).await?;
            }
            for counter in &lost {
                tracing::error!(
                    %counter,
                    "counter's queue is missing; declaring it again and marking the loss"
                );
                broker.mark(&Marker::Lost(counter.clone())).await?;
                broker.declare_queues(counter).await?;
            }
        }
        Plan::Refuse(why) => return Ok(Err(why)),
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(name: &str, named: bool, removed: bool, queues: bool) -> CounterFacts {
        let name = CounterName::new(name).expect("valid");
        CounterFacts {
            name,
            named,
            removed,
            queues,
        }
    }

    fn names(names: &[&str]) -> Vec<CounterName> {
        names
            .iter()
            .map(|name| CounterName::new(name).expect("valid"))
            .collect()
    }

    #[test]
    fn the_first_coordinator_founds_also_after_half_a_founding() {
        let facts = [
            counter("c1", true, false, true),
            counter("c2", true, false, false),
        ];
        assert_eq!(plan(false, &facts), Plan::Found(names(&["c1", "c2"])));
    }

    #[test]
    fn a_missing_queue_is_declared_with_word_of_the_loss() {
        let facts = [
            counter("c1", true, false, true),
            counter("c2", true, false, false),
            counter("c4", false, false, false),
        ];
        let expected = Plan::Declare {
            there: names(&["c1"]),
            lost: names(&["c2", "c4"]),
        };
        assert_eq!(plan(true, &facts), expected);
    }

    /// docs/testing/schedules.md, 18: `remove-counter`, then a coordinator reconnects.
    #[test]
    fn a_removed_counter_is_never_declared_again() {
        let named = [
            counter("c1", true, false, true),
            counter("c2", true, true, false),
        ];
        for founded in [false, true] {
            assert!(matches!(plan(founded, &named), Plan::Refuse(why) if why.contains("c2")));
        }
        let seen = [
            counter("c1", true, false, true),
            counter("c2", false, true, false),
        ];
        let expected = Plan::Declare {
            there: names(&["c1"]),
            lost: Vec::new(),
        };
        assert_eq!(plan(true, &seen), expected);
    }
}
