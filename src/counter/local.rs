//! A counter of this process, asked without a network.
//!
//! Invariant: it only reads its store's last commit; it never waits for the task that writes.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

use super::task::Progress;
use super::{Counts, Cover, Demand, ListQuery, Listing, Membership, Queries, QueryError, Status};
use crate::model::{ItemHash, TenantName};
use crate::store::{Cut, StoreReader};

/// The query handle of a [`CounterTask`](super::CounterTask); cheap to clone.
#[derive(Clone)]
pub struct LocalCounter<R> {
    name: Arc<str>,
    reader: R,
    progress: watch::Receiver<Progress>,
}

impl<R: StoreReader> LocalCounter<R> {
    pub(super) fn new(name: String, reader: R, progress: watch::Receiver<Progress>) -> Self {
        Self {
            name: name.into(),
            reader,
            progress,
        }
    }

    /// Answers from the first commit that covers the demand, or from the last one when the time is up.
    async fn answer<A>(&self, demand: Demand, read: impl Fn(&Cut, Cover) -> A) -> A {
        let deadline = Instant::now() + demand.wait;
        let mut progress = self.progress.clone();
        loop {
            // Marked as seen before looking, so that a commit in between wakes the wait below.
            progress.borrow_and_update();
            {
                let cut = self.reader.cut();
                let cover = cover(&cut, &demand);
                let covers = cover.partitions.iter().all(|&(_, covers)| covers);
                if covers || Instant::now() >= deadline {
                    return read(&cut, cover);
                }
            }
            let changed = tokio::time::timeout_at(deadline, progress.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                // The task has ended: no commit will come any more.
                let cut = self.reader.cut();
                return read(&cut, cover(&cut, &demand));
            }
        }
    }
}

fn cover(cut: &Cut, demand: &Demand) -> Cover {
    let covers =
        |partition| cut.complete() && cut.position().covers(&demand.requirement, partition);
    Cover {
        partitions: cut
            .partitioning()
            .all()
            .map(|partition| (partition, covers(partition)))
            .collect(),
        covered: cut.covered(demand.whole_position),
    }
}

impl<R: StoreReader> Queries for LocalCounter<R> {
    fn name(&self) -> &str {
        &self.name
    }

    fn counts(
        &self,
        tenants: Arc<[TenantName]>,
        demand: Demand,
    ) -> BoxFuture<'_, Result<Counts, QueryError>> {
        async move {
            let read = |cut: &Cut, cover| Counts {
                cover,
                counts: tenants
                    .iter()
                    .map(|tenant| cut.counts(tenant.as_str()))
                    .collect(),
            };
            Ok(self.answer(demand, read).await)
        }
        .boxed()
    }

    fn contains(
        &self,
        tenant: TenantName,
        hash: ItemHash,
        demand: Demand,
    ) -> BoxFuture<'_, Result<Membership, QueryError>> {
        async move {
            let cover = self.answer(demand, |_, cover| cover).await;
            let reader = self.reader.clone();
            // The seen-set may have to read from disk, which must not hold up this thread's other requests.
            let counted = tokio::task::spawn_blocking(move || reader.contains(&tenant, &hash))
                .await
                .map_err(|error| QueryError::Store(error.to_string()))?
                .map_err(|error| QueryError::Store(error.to_string()))?;
            Ok(Membership { cover, counted })
        }
        .boxed()
    }

    fn list(
        &self,
        query: Arc<ListQuery>,
        demand: Demand,
    ) -> BoxFuture<'_, Result<Listing, QueryError>> {
        async move {
            let read = |cut: &Cut, cover| {
                let mut tenants: Vec<_> = cut
                    .list(
                        &query.prefix,
                        query.after.as_deref(),
                        query.limit.saturating_add(1),
                    )
                    .map(|(name, number)| (name.clone(), cut.counts_of(number).to_vec()))
                    .collect();
                let more = tenants.len() > query.limit;
                tenants.truncate(query.limit);
                Listing {
                    cover,
                    tenants,
                    more,
                }
            };
            Ok(self.answer(demand, read).await)
        }
        .boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<Status, QueryError>> {
        let progress = *self.progress.borrow();
        let running = self.progress.has_changed().is_ok();
        let stats = self.reader.stats();
        let cut = self.reader.cut();
        let last_applied = cut
            .covered(false)
            .iter()
            .max_by_key(|(_, _, sequences)| sequences.last())
            .map(|(_, epoch, sequences)| (epoch.to_string(), sequences.last()));
        let status = Status {
            name: self.name.to_string(),
            complete: cut.complete(),
            tenants: cut.tenants(),
            items: cut.items(),
            epochs: cut.position().len() as u64,
            last_applied,
            holes: cut.position().holes() as u64,
            lag_ms: progress.lag_ms,
            disk_bytes: stats.disk_bytes,
            memory_bytes: stats.memory_bytes,
            runs: stats.runs,
        };
        let answer = if running {
            Ok(status)
        } else {
            Err(QueryError::Unreachable("it has stopped".into()))
        };
        std::future::ready(answer).boxed()
    }
}
