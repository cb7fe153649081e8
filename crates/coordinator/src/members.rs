//! The counters that a coordinator knows of: those that configuration names, and those that
//! presence showed.
//!
//! Invariant: a name counts towards the majority from the moment it is known, whether its counter
//! was ever seen or not, and a majority is one of those that configuration names as well. A counter
//! is taken to hold the floor only in the life in which an answer of its own covered it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Coordinator, Replicas};
use headcount_model::Requirement;
use headcount_rpc::{Queries, QueryError, Status};

/// How long a coordinator waits for a counter's status.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// A counter as its coordinator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterView {
    /// Its name.
    pub name: String,
    /// What it says of itself, or why it can't be asked.
    pub status: Result<Status, QueryError>,
    /// Messages in its queue, when there is one and somebody counts them.
    pub queue_messages: Option<u64>,
    /// Batches appended that it has not applied, as far as is known.
    pub lag_batches: Option<u64>,
    /// How long ago it announced itself, in milliseconds.
    pub last_seen_ms_ago: Option<u64>,
    /// Where it is asked; none in the same process.
    pub url: Option<String>,
    /// Where the broker keeps its queue, when somebody asks for that.
    pub replicas: Option<Replicas>,
}

/// What is known of a counter without asking it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hearsay {
    /// Messages in its queue.
    pub queue_messages: Option<u64>,
    /// When it announced itself last.
    pub seen_at: Option<Instant>,
    /// Where it is asked.
    pub url: Option<String>,
    /// Where the broker keeps its queue.
    pub replicas: Option<Replicas>,
}

/// What an answer of a counter has shown of its present life.
#[derive(Clone)]
pub(super) struct Known {
    /// The life.
    pub life: u64,
    /// What it held beyond the floor when it first covered that. Later answers of this life name
    /// only what has changed in it.
    pub beyond_floor: Arc<Requirement>,
}

/// A counter that can be asked.
pub(super) struct Member {
    pub name: String,
    pub queries: Arc<dyn Queries>,
    known: Mutex<Option<Known>>,
    /// Whether it said that it takes nothing more from its queue.
    halted: AtomicBool,
}

impl Member {
    fn new(name: String, queries: Arc<dyn Queries>) -> Self {
        Self {
            name,
            queries,
            known: Mutex::new(None),
            halted: AtomicBool::new(false),
        }
    }

    /// The life in which it has covered the floor. In that life its position only grows, so it
    /// always will.
    pub(crate) fn known(&self) -> Option<Known> {
        self.known.lock().clone()
    }

    pub(crate) fn note(&self, known: Known) {
        *self.known.lock() = Some(known);
    }

    /// What it says of itself, within a time.
    pub(crate) async fn status(&self) -> Result<Status, QueryError> {
        let status = tokio::time::timeout(STATUS_TIMEOUT, self.queries.status())
            .await
            .unwrap_or_else(|_| Err(unreachable("it does not answer")))?;
        let is_halted = status.problem.is_some();
        self.halted.store(is_halted, Ordering::Relaxed);
        Ok(status)
    }

    /// Whether it falls behind for as long as it lives.
    pub(crate) fn is_halted(&self) -> bool {
        self.halted.load(Ordering::Relaxed)
    }

    /// Notes that `life` is over: in the next one the counter may hold less.
    pub(crate) fn forget(&self, life: u64) {
        self.known.lock().take_if(|known| known.life == life);
    }
}

/// The counters of one moment.
#[derive(Default)]
pub(super) struct Roll {
    /// The names of configuration.
    configured: BTreeSet<String>,
    /// Those that can be asked, by name.
    present: BTreeMap<String, Arc<Member>>,
}

impl Roll {
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.present.values().map(Arc::as_ref)
    }

    /// Every name, seen or not, in order.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        let present = self.present.keys();
        let names = present.chain(&self.configured);
        names.map(String::as_str).collect()
    }

    /// Whether `counters` are more than half of all names, of those of configuration, and of those
    /// that each other coordinator names (`others`): whoever acknowledged something has a copy with
    /// each counter that its settings name, which no majority may leave out.
    pub(crate) fn has_majority(
        &self,
        counters: &BTreeSet<&str>,
        others: &[BTreeSet<String>],
    ) -> bool {
        let is_majority =
            |voters: &BTreeSet<&str>| voters.intersection(counters).count() > voters.len() / 2;
        let of = |names: &'_ BTreeSet<String>| -> bool {
            is_majority(&names.iter().map(String::as_str).collect())
        };
        let configured = self.configured.is_empty() || of(&self.configured);
        is_majority(&self.names()) && configured && others.iter().all(of)
    }
}

/// The counters, changing.
pub(super) struct Members {
    roll: Mutex<Arc<Roll>>,
    hearsay: Mutex<BTreeMap<String, Hearsay>>,
}

impl Members {
    pub(crate) fn new(configured: Vec<String>) -> Self {
        let roll = Roll {
            configured: configured.into_iter().collect(),
            present: BTreeMap::new(),
        };
        Self {
            roll: Mutex::new(Arc::new(roll)),
            hearsay: Mutex::default(),
        }
    }

    pub(crate) fn roll(&self) -> Arc<Roll> {
        Arc::clone(&self.roll.lock())
    }

    fn change(&self, change: impl FnOnce(&mut Roll)) {
        let mut roll = self.roll.lock();
        let mut next = Roll {
            configured: roll.configured.clone(),
            present: roll.present.clone(),
        };
        change(&mut next);
        *roll = Arc::new(next);
    }
}

impl Coordinator {
    /// Makes a counter known, or known anew: a new address or a new life comes as a new object.
    /// With `configured` its name stays one of those that a majority is counted of, until the
    /// process ends.
    pub fn set_member(&self, name: &str, queries: Arc<dyn Queries>, configured: bool) {
        self.inner.members.change(|roll| {
            if configured {
                roll.configured.insert(name.to_owned());
            }
            let member = Arc::new(Member::new(name.to_owned(), queries));
            roll.present.insert(name.to_owned(), member);
        });
    }

    /// Asks a counter no more: for one that was removed from the cluster, never for one that is
    /// merely silent. A configured name stays named.
    pub fn remove_member(&self, name: &str) {
        self.inner.members.change(|roll| {
            roll.present.remove(name);
        });
    }

    /// Takes note of what is known of a counter without asking it: for those who look, never for an
    /// answer.
    pub fn note_hearsay(&self, name: &str, note: impl FnOnce(&mut Hearsay)) {
        let mut hearsay = self.inner.members.hearsay.lock();
        note(hearsay.entry(name.to_owned()).or_default());
    }

    /// The names of all counters that it knows of, in order.
    #[must_use]
    pub fn counter_names(&self) -> Vec<String> {
        let roll = self.inner.members.roll();
        roll.names().into_iter().map(str::to_owned).collect()
    }

    /// Every named counter as it can be seen now, by name.
    pub async fn counters(&self) -> Vec<CounterView> {
        let roll = self.inner.members.roll();
        let asked = roll.names().into_iter().map(|name| {
            let member = roll.present.get(name);
            async move {
                let status = match member {
                    Some(member) => member.status().await,
                    None => Err(unreachable("it has not been seen yet")),
                };
                let heard = self.inner.members.hearsay.lock().get(name).cloned();
                let heard = heard.unwrap_or_default();
                CounterView {
                    name: name.to_owned(),
                    status,
                    queue_messages: heard.queue_messages,
                    // A queue's messages are the batches that its counter has not applied.
                    lag_batches: heard.queue_messages,
                    last_seen_ms_ago: heard.seen_at.map(|at| at.elapsed().as_millis() as u64),
                    url: heard.url,
                    replicas: heard.replicas,
                }
            }
        });
        futures_util::future::join_all(asked).await
    }
}

fn unreachable(why: &str) -> QueryError {
    QueryError::Unreachable(why.to_owned())
}
