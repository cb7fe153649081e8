//! What a coordinator declares before it publishes, and again when a message comes back; what a
//! counter creates.
//!
//! Invariant: nobody publishes before the founding is over, and a queue that is missing afterwards
//! is declared again only once a marker tells its counter of the loss: what a look has found there
//! is bound, never created. One node declares at a time.

use std::time::Duration;

use super::broker_error::BrokerError;
use super::elsewhere;
use super::renewal;
use super::topology::{Broker, Marker};
use headcount_model::CounterName;

/// The pause before another look when a queue vanished behind the last one: RabbitMQ may still be
/// deleting it.
const VANISHED_PAUSE: Duration = Duration::from_secs(1);
/// Looks in a row, each of which a queue vanishes behind, before the connection is given up.
const LOOKS_MAX: usize = 8;

/// What the broker says of one counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CounterFacts {
    pub name: CounterName,
    /// Whether the settings name it: then it must be there, and must not have been removed.
    pub named: bool,
    pub removed: bool,
    pub queues: bool,
}

/// What to declare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing was ever published: every counter's queues, its founding marker, and last that all
    /// is founded.
    Found(Vec<CounterName>),
    /// To bind the queues that are there; to declare the others, each after the marker of its loss.
    Declare {
        there: Vec<CounterName>,
        lost: Vec<CounterName>,
    },
    /// A counter's name is spent.
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
            "counter {name} was removed from this cluster and its name is spent: take it out of the settings, or \
             give its successor a new name"
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

/// Declares what `named` counters and `known` ones (seen by presence) need; the inner error is
/// final.
pub(super) async fn declare(
    broker: &mut Broker,
    named: &[CounterName],
    known: &[CounterName],
) -> Result<Result<(), String>, BrokerError> {
    broker.lock().await?;
    let declared = declare_locked(broker, named, known).await;
    // The lock ends with the connection at the latest.
    broker.unlock().await?;
    declared
}

/// What a counter creates by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Creation {
    /// Its queues, once it has said what it may have lost.
    Items,
    /// Its generation queue.
    Generation,
}

/// Declares what a counter creates; false when its name is spent by now. Under the lock, since
/// whoever removes a counter deletes what was created before.
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
                tracing::warn!(%error, "a queue vanished meanwhile; looking again");
                tokio::time::sleep(VANISHED_PAUSE).await;
            }
            done => return done,
        }
    }
}

/// Looks, and decides what to declare.
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

/// Does what is planned. What is [missing](BrokerError::missing) though the plan says that it is
/// there asks for another plan; the inner error is final.
async fn carry_out(broker: &mut Broker, plan: Plan) -> Result<Result<(), String>, BrokerError> {
    match plan {
        Plan::Found(counters) => {
            broker.declare_items().await?;
            for counter in &counters {
                broker.declare_generation(counter).await?;
            }
            // Before the markers: a counter without its message has lost what the message lay
            // beside.
            renewal::found(broker, &counters).await?;
            for counter in &counters {
                broker.declare_queues(counter).await?;
                broker.mark(&Marker::Founding(counter.clone())).await?;
            }
            broker.mark(&Marker::Founded).await?;
            tracing::info!(?counters, "the cluster is founded");
        }
        Plan::Declare { there, lost } => {
            broker.declare_items().await?;
            for counter in &there {
                broker.bind_queues(counter).await?;
            }
            for counter in &lost {
                tracing::error!(%counter, "the counter's queue is missing; it is declared again, and the counter told");
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

    /// ATTACKS 18: `remove-counter`, then a coordinator reconnects.
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
