//! The counters that a coordinator knows: those that its configuration names, and those that
//! discovery found.
//!
//! Invariant: a name counts towards the majority as soon as it is known, whether or not its counter
//! was ever seen, and a majority of all names is also a majority of the configured ones. A counter
//! is presumed to hold the floor only in the incarnation in which one of its own answers covered
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Coordinator, Replicas};
use headcount_model::Requirement;
use headcount_rpc::{Queries, QueryError, Status};

/// Timeout for the status of a counter.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// A counter, as seen by its coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterView {
    /// Its name.
    pub name: String,
    /// Its status, or why it cannot be queried.
    pub status: Result<Status, QueryError>,
    /// Messages in its queue, if it has one and their number is known.
    pub queue_messages: Option<u64>,
    /// Appended batches that it has not applied, as far as known.
    pub lag_batches: Option<u64>,
    /// Time since its last announcement, in milliseconds.
    pub last_seen_ms_ago: Option<u64>,
    /// Its URL; `None` if it runs in the same process.
    pub url: Option<String>,
    /// The broker nodes that hold its queue, if this is monitored.
    pub replicas: Option<Replicas>,
}

/// What is known about a counter without querying it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportedState {
    /// Messages in its queue.
    pub queue_messages: Option<u64>,
    /// When its last announcement was received.
    pub seen_at: Option<Instant>,
    /// Its URL.
    pub url: Option<String>,
    /// The broker nodes that hold its queue.
    pub replicas: Option<Replicas>,
}

/// What an answer of a counter showed about its current incarnation.
#[derive(Clone)]
pub(super) struct Known {
    /// The incarnation.
    pub life: u64,
    /// What it held beyond the floor when it first covered the floor. Later answers of this
    /// incarnation name only epochs that changed in it.
    pub beyond_floor: Arc<Requirement>,
}

/// A counter that can be queried.
pub(super) struct Member {
    pub name: String,
    pub queries: Arc<dyn Queries>,
    known: Mutex<Option<Known>>,
    /// Whether it reported that it has stopped consuming its queue.
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

    /// The incarnation in which it covered the floor. Within an incarnation its position only
    /// grows, so it continues to cover the floor.
    pub(crate) fn known(&self) -> Option<Known> {
        self.known.lock().clone()
    }

    pub(crate) fn note(&self, known: Known) {
        *self.known.lock() = Some(known);
    }

    /// Queries its status, with a timeout.
    pub(crate) async fn status(&self) -> Result<Status, QueryError> {
        let status = tokio::time::timeout(STATUS_TIMEOUT, self.queries.status())
            .await
            .unwrap_or_else(|_| Err(unreachable("it does not answer in time")))?;
        let is_halted = status.problem.is_some();
        self.halted.store(is_halted, Ordering::Relaxed);
        Ok(status)
    }

    /// Whether it has halted: it falls behind for the rest of its incarnation.
    pub(crate) fn is_halted(&self) -> bool {
        self.halted.load(Ordering::Relaxed)
    }

    /// Forgets the incarnation `life`, which has ended. In the next one the counter may hold less.
    pub(crate) fn forget(&self, life: u64) {
        self.known.lock().take_if(|known| known.life == life);
    }
}

/// The counters at one moment.
#[derive(Default)]
pub(super) struct MemberSet {
    /// The configured names.
    configured: BTreeSet<String>,
    /// The counters that can be queried, by name.
    present: BTreeMap<String, Arc<Member>>,
}

impl MemberSet {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.present.values().map(Arc::as_ref)
    }

    /// All names in order, whether or not their counters were seen.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        let present = self.present.keys();
        let names = present.chain(&self.configured);
        names.map(String::as_str).collect()
    }

    /// Whether `counters` are more than half of all names, more than half of the configured names,
    /// and more than half of the names that each other coordinator configures (`others`). Each
    /// acknowledged batch has a copy for every counter that its coordinator's configuration names,
    /// so a majority must include a majority of those.
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

/// The current member set.
pub(super) struct Members {
    member_set: Mutex<Arc<MemberSet>>,
    hearsay: Mutex<BTreeMap<String, ReportedState>>,
}

impl Members {
    pub(crate) fn new(configured: Vec<String>) -> Self {
        let member_set = MemberSet {
            configured: configured.into_iter().collect(),
            present: BTreeMap::new(),
        };
        Self {
            member_set: Mutex::new(Arc::new(member_set)),
            hearsay: Mutex::default(),
        }
    }

    pub(crate) fn member_set(&self) -> Arc<MemberSet> {
        Arc::clone(&self.member_set.lock())
    }

    fn change(&self, change: impl FnOnce(&mut MemberSet)) {
        let mut member_set = self.member_set.lock();
        let mut next = MemberSet {
            configured: member_set.configured.clone(),
            present: member_set.present.clone(),
        };
        change(&mut next);
        *member_set = Arc::new(next);
    }
}

impl Coordinator {
    /// Adds a counter or replaces it: a new address or a new incarnation comes as a new object.
    /// With `configured`, its name counts as a configured one until the process ends.
    pub fn set_member(&self, name: &str, queries: Arc<dyn Queries>, configured: bool) {
        self.inner.members.change(|member_set| {
            if configured {
                member_set.configured.insert(name.to_owned());
            }
            let member = Arc::new(Member::new(name.to_owned(), queries));
            member_set.present.insert(name.to_owned(), member);
        });
    }

    /// Stops querying a counter. Call this only for a counter that was removed from the cluster,
    /// never for one that is merely silent. A configured name stays configured.
    pub fn remove_member(&self, name: &str) {
        self.inner.members.change(|member_set| {
            member_set.present.remove(name);
        });
    }

    /// Records what is known about a counter without querying it. This is for observation only and
    /// never affects an answer.
    pub fn note_reported_state(&self, name: &str, note: impl FnOnce(&mut ReportedState)) {
        let mut hearsay = self.inner.members.hearsay.lock();
        note(hearsay.entry(name.to_owned()).or_default());
    }

    /// The names of all known counters, in order.
    #[must_use]
    pub fn counter_names(&self) -> Vec<String> {
        let member_set = self.inner.members.member_set();
        member_set.names().into_iter().map(str::to_owned).collect()
    }

    /// The current view of every known counter, by name.
    pub async fn counters(&self) -> Vec<CounterView> {
        let member_set = self.inner.members.member_set();
        let asked = member_set.names().into_iter().map(|name| {
            let member = member_set.present.get(name);
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
                    // The messages in a queue are the batches that its counter has not applied.
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
