//! Checks the count of every tenant against the results of the run, and waits until all counters
//! have committed everything.
//!
//! Invariant: a count passes only if the coordinator reports it as exact, it is at least the count
//! before the run plus the acknowledged new ids, and it exceeds that by at most the ids in doubt.

use std::time::{Duration, Instant};

use super::BenchError;
use super::tally::Tally;
use crate::client::{ClientError, CounterItems, CountsRequest, PublicClient, TenantCount};

/// Number of tenants per request for counts.
const TENANTS_AT_ONCE: usize = 1_000;
/// Timeout for the coordinator to answer with exact counts.
const PATIENCE: Duration = Duration::from_secs(60);
/// Delay before a retry.
const PAUSE: Duration = Duration::from_millis(200);
/// Timeout for the counters to commit everything.
const SETTLE_PATIENCE: Duration = Duration::from_secs(600);
/// Polling interval of the counters, which is also the precision of the reported time.
const SETTLE_TICK: Duration = Duration::from_millis(20);

/// Result of the check.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Checked {
    /// Number of tenants whose counts were compared.
    pub(super) tenants: u64,
    /// Number of those tenants with an impossible count.
    pub(super) wrong: u64,
    /// Whether all counts equal the number of acknowledged ids. A correct count may exceed it by
    /// ids in doubt.
    pub(super) exact: bool,
    /// Description of the first wrong count.
    pub(super) example: Option<String>,
}

/// Reads the counts of `tenants` tenants with the prefix `prefix`.
pub(super) async fn counts(
    client: &PublicClient,
    prefix: &str,
    tenants: u32,
) -> Result<Vec<u64>, BenchError> {
    let mut found = Vec::with_capacity(tenants as usize);
    for start in (0..tenants).step_by(TENANTS_AT_ONCE) {
        let end = tenants.min(start + TENANTS_AT_ONCE as u32);
        let request = CountsRequest {
            tenants: (start..end).map(|n| format!("{prefix}-t{n}")).collect(),
            ..CountsRequest::default()
        };
        let rows = exact_counts(client, &request).await?;
        found.extend(rows.into_iter().map(|row| row.count));
    }
    Ok(found)
}

/// Reads the counts until they are exact: the counters may need some time to catch up.
async fn exact_counts(
    client: &PublicClient,
    request: &CountsRequest,
) -> Result<Vec<TenantCount>, BenchError> {
    let started = Instant::now();
    loop {
        let answer = client.counts(request).await;
        let error = match answer {
            Ok(rows) if rows.len() != request.tenants.len() => {
                let why = format!("{} counts for {}", rows.len(), request.tenants.len());
                return Err(ClientError::Unexpected(why).into());
            }
            Ok(rows) if rows.iter().all(|row| row.exact) => return Ok(rows),
            Ok(_) => BenchError::NeverExact(PATIENCE.as_secs()),
            Err(error) if error.is_retryable() => error.into(),
            Err(error) => return Err(error.into()),
        };
        if started.elapsed() >= PATIENCE {
            return Err(error);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Compares the counts after a run with those before it. An empty `before` means that all counts
/// were 0.
pub(super) fn compare(prefix: &str, before: &[u64], after: &[u64], tally: &Tally) -> Checked {
    let mut checked = Checked {
        exact: true,
        ..Checked::default()
    };
    for (tenant, &count) in after.iter().enumerate() {
        let of = |counts: &[u64]| counts.get(tenant).copied().unwrap_or(0);
        let least = of(before) + of(&tally.acked);
        let most = least + of(&tally.doubtful);
        checked.tenants += 1;
        checked.exact &= count == least;
        if !(least..=most).contains(&count) {
            checked.wrong += 1;
            checked.example.get_or_insert_with(|| match least == most {
                true => format!("{prefix}-t{tenant} has {count} items, not {least}"),
                false => format!("{prefix}-t{tenant} has {count} items, not {least} to {most}"),
            });
        }
    }
    checked
}

/// Waits until every counter that answered before the run has `items` more items than before it.
pub(super) async fn settle(
    client: &PublicClient,
    before: &[CounterItems],
    items: u64,
) -> Result<Instant, BenchError> {
    let started = Instant::now();
    loop {
        let now = match client.counters().await {
            Ok(counters) => counters,
            Err(error) if error.is_retryable() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let Some(behind) = first_behind(before, &now, items) else {
            return Ok(Instant::now());
        };
        if started.elapsed() >= SETTLE_PATIENCE {
            return Err(BenchError::NotSettled {
                counter: behind.to_owned(),
                waited_s: SETTLE_PATIENCE.as_secs(),
            });
        }
        tokio::time::sleep(SETTLE_TICK).await;
    }
}

/// The first counter that answered before the run and has not gained `items` items since.
fn first_behind<'a>(
    before: &'a [CounterItems],
    now: &[CounterItems],
    items: u64,
) -> Option<&'a str> {
    let is_behind = |counter: &&CounterItems| {
        let Some(then) = counter.items else {
            return false;
        };
        let found = now.iter().find(|found| found.name == counter.name);
        found
            .and_then(|found| found.items)
            .is_none_or(|has| has < then + items)
    };
    before
        .iter()
        .find(is_behind)
        .map(|counter| counter.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(acked: &[u64], doubtful: &[u64]) -> Tally {
        let mut tally = Tally::new(acked.len() as u32).expect("a tally");
        tally.acked = acked.to_vec();
        tally.doubtful = doubtful.to_vec();
        tally
    }

    #[test]
    fn counts_that_are_what_was_acknowledged_are_exact() {
        let found = compare("p", &[], &[3, 0], &tally(&[3, 0], &[1, 0]));
        assert_eq!(found.wrong, 0);
        assert!(found.exact);
        assert_eq!(found.tenants, 2);
        let found = compare("p", &[10, 5], &[13, 5], &tally(&[3, 0], &[0, 0]));
        assert!(found.exact && found.wrong == 0);
    }

    #[test]
    fn what_is_in_doubt_may_count() {
        let found = compare("p", &[], &[5], &tally(&[3], &[2]));
        assert!(!found.exact);
        assert_eq!(found.wrong, 0);
    }

    #[test]
    fn too_few_and_too_many_are_wrong() {
        for (count, said) in [(2, "not 3 to 5"), (6, "not 3 to 5")] {
            let found = compare("p", &[], &[count], &tally(&[3], &[2]));
            assert_eq!(found.wrong, 1);
            assert!(!found.exact);
            let example = found.example.expect("an example");
            assert!(
                example.starts_with("p-t0 has") && example.ends_with(said),
                "{example}"
            );
        }
        let found = compare("p", &[1, 1], &[1, 2], &tally(&[0, 0], &[0, 0]));
        assert_eq!(found.example.as_deref(), Some("p-t1 has 2 items, not 1"));
    }

    #[test]
    fn counters_have_settled_once_each_has_grown() {
        let counter = |name: &str, items: Option<u64>| CounterItems {
            name: name.to_owned(),
            items,
        };
        let before = [
            counter("a", Some(5)),
            counter("b", None),
            counter("c", Some(0)),
        ];
        let now = |a, c| [counter("c", c), counter("b", None), counter("a", a)];
        assert_eq!(first_behind(&before, &now(Some(8), Some(3)), 3), None);
        assert_eq!(first_behind(&before, &now(Some(7), Some(3)), 3), Some("a"));
        assert_eq!(first_behind(&before, &now(Some(8), None), 3), Some("c"));
        assert_eq!(first_behind(&before, &[], 3), Some("a"));
    }
}
