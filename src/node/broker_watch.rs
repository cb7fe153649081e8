//! Polls RabbitMQ's management API for the placement of the counters' queues, and warns of
//! problems.
//!
//! Invariant: counting and answering never depend on it. One request to the API is in flight at a
//! time; information that is no longer known is no longer reported.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::NodeError;
use super::cluster::parse_all;
use crate::client::{Look, ManagementClient, ManagementError, ManagementUrl};
use crate::config::SecretTexts;
use crate::coordinator::{Coordinator, Replicas};
use crate::log::amqp::AmqpOptions;
use crate::model::CounterName;

/// Polling interval.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Maximum number of counters per poll.
const COUNTERS_MAX: usize = 64;

/// Polls the management API.
pub(super) struct BrokerWatch {
    client: ManagementClient,
    amqp: AmqpOptions,
    /// The last warning logged for each counter.
    warned: BTreeMap<String, String>,
    /// The error of the last poll, if it failed.
    failed: Option<ManagementError>,
}

impl BrokerWatch {
    /// Prepares the polling of the management API at `urls`; `None` if there are none.
    pub(super) fn prepare(
        urls: &SecretTexts,
        amqp: &AmqpOptions,
    ) -> Result<Option<Self>, NodeError> {
        if urls.0.is_empty() {
            return Ok(None);
        }
        const KEY: &str = "management-url";
        let urls: Vec<ManagementUrl> = parse_all(KEY, urls)?;
        let client = ManagementClient::new(urls, amqp.authorities.as_deref());
        let client = client.map_err(|error| NodeError::Setting {
            key: KEY,
            detail: error.to_string(),
        })?;
        Ok(Some(Self {
            client,
            amqp: amqp.clone(),
            warned: BTreeMap::new(),
            failed: None,
        }))
    }

    /// Polls for as long as the node runs, and reports the results to `coordinator`.
    pub(super) async fn run(mut self, coordinator: Coordinator) -> Infallible {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(&coordinator).await;
        }
    }

    async fn look(&mut self, coordinator: &Coordinator) {
        let names = coordinator.counter_names();
        let counters = names.iter().filter_map(|name| CounterName::new(name));
        let counters: Vec<CounterName> = counters.take(COUNTERS_MAX).collect();
        let queues: Vec<Vec<String>> = counters.iter().map(|it| self.amqp.queues(it)).collect();
        let vhost = self.amqp.vhost();
        let looked = self.client.look(vhost, &queues.concat()).await;
        let replicas = match looked {
            Ok(look) => {
                if self.failed.take().is_some() {
                    tracing::info!("management API answers again");
                }
                replicas(vhost, &queues, look)
            }
            Err(error) => {
                if self.failed.as_ref() != Some(&error) {
                    tracing::warn!(%error, "management API request failed; placement of queues \
                        unknown");
                    self.failed = Some(error);
                }
                vec![None; counters.len()]
            }
        };
        for (counter, replicas) in counters.iter().zip(replicas) {
            let name = counter.as_str();
            if let Some(replicas) = &replicas {
                self.warn(name, replicas);
            }
            coordinator.note_reported_state(name, |heard| heard.replicas = replicas);
        }
    }

    /// Logs a warning if it changed.
    fn warn(&mut self, counter: &str, replicas: &Replicas) {
        match replicas.warning(counter) {
            Some(warning) if self.warned.get(counter) != Some(&warning) => {
                tracing::warn!(
                    counter,
                    warning,
                    "queue of the counter is not replicated as required"
                );
                self.warned.insert(counter.to_owned(), warning);
            }
            Some(_) => {}
            None => {
                if self.warned.remove(counter).is_some() {
                    tracing::info!(counter, "queue of the counter is replicated as required");
                }
            }
        }
    }
}

/// Picks, for each counter, the queue with the fewest online members; `None` if none of its queues
/// exists.
fn replicas(vhost: &str, queues: &[Vec<String>], look: Look) -> Vec<Option<Replicas>> {
    let nodes: BTreeSet<String> = look.nodes.iter().map(|node| node.name.clone()).collect();
    let running = look.nodes.iter().filter(|node| node.running);
    let running: BTreeSet<String> = running.map(|node| node.name.clone()).collect();
    let mut states = look.queues.into_iter();
    let of_counter = |names: &Vec<String>| {
        let each = names.iter().zip(states.by_ref());
        // Missing queues are reported elsewhere.
        let there = each.filter_map(|(queue, state)| Some((queue, state?)));
        let worst = there.min_by_key(|(_, state)| (state.online.len(), state.members.len()))?;
        let (queue, state) = worst;
        Some(Replicas {
            queue: queue.clone(),
            vhost: vhost.to_owned(),
            queues: names.clone(),
            quorum: state.kind == "quorum",
            members: state.members.into_iter().collect(),
            online: state.online.into_iter().collect(),
            nodes: nodes.clone(),
            running: running.clone(),
        })
    };
    queues.iter().map(of_counter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{NodeState, QueueState};

    fn node(name: &str, running: bool) -> NodeState {
        NodeState {
            name: name.to_owned(),
            running,
        }
    }

    fn queue(members: &[&str], online: &[&str]) -> QueueState {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        QueueState {
            kind: "quorum".to_owned(),
            members: owned(members),
            online: owned(online),
        }
    }

    #[test]
    fn each_counter_is_told_of_the_worst_of_its_queues() {
        let names = |prefix: &str| vec![format!("{prefix}.0"), format!("{prefix}.1")];
        let look = Look {
            nodes: vec![node("r@a", true), node("r@b", false)],
            queues: vec![
                Some(queue(&["r@a", "r@b"], &["r@a", "r@b"])),
                Some(queue(&["r@a", "r@b"], &["r@a"])),
                Some(queue(&["r@a"], &["r@a"])),
                None,
            ],
        };
        let told = replicas("/", &[names("c1"), names("c2")], look);
        let first = told[0].as_ref().expect("both are there");
        assert_eq!(first.queue, "c1.1");
        assert_eq!(first.online.len(), 1);
        assert_eq!((first.nodes.len(), first.running.len()), (2, 1));
        let second = told[1].as_ref().expect("one is there");
        assert_eq!(second.queue, "c2.0");
        assert_eq!(second.queues, names("c2"));
    }
}
